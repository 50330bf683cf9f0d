import pytest
import torch
from torch import nn

from pyaccel.distill.discriminators import (
    Discriminator,
    Head,
    as_map,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from pyaccel.training.recipe import frozen

from .references import by_hand, discriminator_by_hand

F64 = torch.float64


def opened(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64 with large random weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.double().parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=generator, dtype=F64))
    return module


FEATURES = {"maps": (3, 32, 4, 3), "a square of tokens": (3, 9, 32), "a row of tokens": (3, 5, 32), "one": (3, 32)}


@pytest.mark.parametrize("shape", FEATURES.values(), ids=FEATURES)
def test_head(shape):
    head, features, c = opened(Head(32, 7)), torch.randn(shape, dtype=F64), torch.randn(3, 7, dtype=F64)
    logits = head(features, c)
    torch.testing.assert_close(logits, by_hand(head, features, c))
    places = {4: 12, 3: shape[1], 2: 1}[len(shape)]
    assert logits.shape == (3, places)
    alone = opened(Head(32))
    torch.testing.assert_close(alone(features, None), by_hand(alone, features, None))


def test_tokens_of_a_square_lie_as_in_it():
    maps = torch.randn(2, 5, 3, 3)
    assert torch.equal(as_map(maps.flatten(2).transpose(1, 2)), maps)
    row = torch.randn(2, 6, 5)
    assert torch.equal(as_map(row)[:, :, 0], row.transpose(1, 2))


def test_a_logit_does_not_depend_on_the_batch():
    head, features = opened(Head(16, 4)), torch.randn(6, 9, 16, dtype=F64)
    c = torch.randn(6, 4, dtype=F64)
    torch.testing.assert_close(head(features, c)[2:4], head(features[2:4], c[2:4]))


def test_hinge_losses():
    real, fake = [2 * torch.randn(5, n, dtype=F64) for n in (4, 7)], [2 * torch.randn(5, n, dtype=F64) for n in (4, 7)]
    expected = 0.0
    for r, f in zip(real, fake, strict=True):
        expected += sum(max(0.0, 1 - float(v)) for v in r.flatten()) / r.numel()
        expected += sum(max(0.0, 1 + float(v)) for v in f.flatten()) / f.numel()
    assert float(hinge_discriminator_loss(real, fake)) == pytest.approx(expected)
    assert float(hinge_generator_loss(fake)) == pytest.approx(-float(fake[0].mean()) - float(fake[1].mean()))


def conditioned():
    made = Discriminator([16, 8], classes=3, given={"text": 5, "image": 4}, timed=True, embedding=6)
    features = [torch.randn(4, 9, 16, dtype=F64), torch.randn(4, 8, 3, 2, dtype=F64)]
    conditioning = {
        "label": torch.tensor([0, 3, 1, 2]),
        "text": torch.randn(4, 7, 5, dtype=F64),
        "image": torch.randn(4, 4, dtype=F64),
    }
    return opened(made), features, torch.rand(4, dtype=F64), conditioning


def test_condition():
    made, features, t, conditioning = conditioned()
    logits, penalty = made(features, t, **conditioning, other=torch.ones(4))
    expected, _ = discriminator_by_hand(made, features, t, conditioning)
    torch.testing.assert_close(logits, expected)
    assert float(penalty) == 0
    for name, value in conditioning.items():  # each of them counts
        changed = conditioning | {name: value.flip(0)}
        assert float((made(features, t, **changed)[0][0] - logits[0]).detach().abs().max()) > 1e-3
    assert float((made(features, t.flip(0), **conditioning)[0][0] - logits[0]).detach().abs().max()) > 1e-3


def test_no_label_is_the_label_of_none():
    made, features, t, conditioning = conditioned()
    without = {k: v for k, v in conditioning.items() if k != "label"}
    none = conditioning | {"label": torch.full((4,), 3)}
    torch.testing.assert_close(made(features, t, **without), made(features, t, **none))


def test_conditioning_that_is_missing_is_named():
    made, features, t, conditioning = conditioned()
    conditioning.pop("text")
    with pytest.raises(ValueError, match="conditioned on 'text', and the data have label, image"):
        made(features, t, **conditioning)


def test_penalty_and_its_gradients():
    """R1 at the real half alone, and all gradients of the discriminator's loss, also those of second order."""
    made, features, t, conditioning = conditioned()
    logits, penalty = made(features, t, real=2, **conditioning)
    expected, squares = discriminator_by_hand(made, features, t, conditioning, real=2)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(penalty, squares)
    parameters = list(made.parameters())
    mine = torch.autograd.grad(penalty + logits[0].sum() + logits[1].sum(), parameters)
    theirs = torch.autograd.grad(squares + expected[0].sum() + expected[1].sum(), parameters)
    torch.testing.assert_close(mine, theirs)
    assert all(float(g.abs().max()) > 1e-9 for g in mine)


def test_every_parameter_has_a_gradient_and_none_when_frozen():
    made, features, t, conditioning = conditioned()
    features = [f.requires_grad_() for f in features]
    with frozen(made) as network:
        loss = hinge_generator_loss(network(features, t, **conditioning)[0])
    assert all(float(g.abs().max()) > 1e-6 for g in torch.autograd.grad(loss, features, retain_graph=True))
    assert not any(g is not None for g in torch.autograd.grad(loss, list(made.parameters()), allow_unused=True))
    unlabelled = {k: v for k, v in conditioning.items() if k != "label"}
    loss = hinge_generator_loss(made(features, t, **unlabelled)[0])
    assert all(g is not None for g in torch.autograd.grad(loss, list(made.parameters()), allow_unused=True))


def test_without_conditions():
    made = opened(Discriminator([16]))
    assert made.heads[0].project is None
    features = [torch.randn(2, 16, dtype=F64)]
    torch.testing.assert_close(
        made(features, label=torch.tensor([0, 1]))[0][0], by_hand(made.heads[0], features[0], None)
    )


def test_it_learns_to_tell_a_shifted_distribution():
    torch.manual_seed(0)
    made = Discriminator([8])
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for _ in range(60):
        features = torch.randn(64, 8)
        features[:32] += 1.0
        logits, penalty = made([features], real=32)
        loss = hinge_discriminator_loss([logits[0][:32]], [logits[0][32:]]) + 1e-3 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = (made([m + torch.randn(200, 8)])[0][0].detach() for m in (1.0, 0.0))
    assert float((real > 0).float().mean()) > 0.85
    assert float((fake < 0).float().mean()) > 0.85
