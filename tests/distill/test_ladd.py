import pytest
import torch

from pyaccel import Denoiser, schedules
from pyaccel.distill import LADD
from pyaccel.models import DiT, UNet

from .adversarial import (
    assert_a_discriminator_that_diverged_is_named,
    assert_a_penalty_that_counts_nothing_is_left_out,
    assert_each_loss_leaves_the_other_network,
    assert_losses,
    made_of,
)
from .references import (
    KINDS,
    Exact,
    Shifted,
    all_losses,
    alpha,
    discriminator_by_hand,
    in_parts,
    networks,
    played,
    sample_and_noise,
    sigma,
    twice,
    wide,
)


def reference(recipe, kind, made, batch):
    """(the student's loss, the discriminator's)."""
    labels, x0 = batch.conditioning, batch.x
    shares = recipe.first_shares if batch.step < recipe.warmup else recipe.shares
    u = batch.uniform()
    place = sum((u >= sum(shares[: i + 1])).long() for i in range(len(shares) - 1))
    t = torch.tensor(recipe.times, dtype=torch.float64)[place]
    x_t = wide(torch.where(place == 0, 0.0, alpha(kind[0], t))) * x0 + wide(sigma(kind[0], t)) * batch.normal()
    sample = sample_and_noise(kind, made.student.model, x_t, t, **labels)[0]
    s, noise = 1 / (1 + torch.exp(-recipe.mean - recipe.std * batch.gaussians())), batch.normal()
    a, b, network = wide(alpha(kind[0], s)), wide(sigma(kind[0], s)), made.teacher.model.network

    def seen(x):  # of the teacher without guidance
        noisy = a * x + b * noise
        inputs = torch.cat([noisy.flatten(1), s[:, None], s[:, None], (s * s)[:, None]], 1)
        first = inputs @ network.hidden[0].weight.T + network.hidden[0].bias
        h = torch.sin(first + network.label.weight[labels["label"]])
        both = first, h @ network.hidden[1].weight.T + network.hidden[1].bias
        return [both[int(name[-1])] for name in recipe.blocks or ("hidden.0", "hidden.1")]

    of_student = -sum(d.mean() for d in discriminator_by_hand(made.discriminator, seen(sample), s, labels)[0])
    if recipe.distillation:
        again, v = batch.normal(), batch.uniform()
        a_v, x = wide(alpha(kind[0], v)), sample.detach()
        noisy = a_v * x + wide(sigma(kind[0], v)) * again
        guided = 2.0 * network(noisy, v, **labels) - network(noisy, v, torch.full_like(labels["label"], 4))
        target = sample_and_noise(kind, lambda *_, **__: guided, noisy, v)[0].detach()
        of_student = of_student + recipe.distillation * (a_v * (sample - target) ** 2).mean()
    with torch.no_grad():
        of_real, of_fake = seen(x0), seen(sample)
    real, penalty = discriminator_by_hand(made.discriminator, of_real, s, labels, real=len(x0))
    fake, _ = discriminator_by_hand(made.discriminator, of_fake, s, labels)
    hinge = sum((1 - d).clamp_min(0).mean() for d in real) + sum((1 + d).clamp_min(0).mean() for d in fake)
    return of_student, hinge + recipe.r1 * penalty


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"warmup": 0, "mean": -0.5, "std": 0.7, "r1": 0.02, "distillation": 1.5},
        {"blocks": ("hidden.1",), "times": (1.0, 0.4), "first_shares": (0.3, 0.7), "shares": (1.0, 0.0)},
    ],
    ids=["first steps", "later, with the teacher", "one block"],
)
def test_losses(kind, options):
    recipe = LADD(**options)
    made = made_of(recipe, kind)
    assert_losses(recipe, made, lambda batch: reference(recipe, kind, made, batch))


def test_each_loss_leaves_the_other_network():
    assert_each_loss_leaves_the_other_network(LADD(), made_of(LADD(), KINDS[0]))


def test_the_times_change_after_the_warm_up():
    """First little noise, then mostly none of the data."""
    times = []

    class Told(Shifted):
        def forward(self, x, t):
            times.append(t)
            return super().forward(x, t)

    recipe = LADD(warmup=3)
    teacher = Denoiser(Exact(lambda: 0.0), schedules.flow(), "flow")
    made = {**recipe.networks(teacher), "student": Denoiser(Told(), schedules.flow(), "flow")}
    list(played(recipe, networks(**made), lambda: None, steps=6))
    first, later = torch.cat(times[:3]), torch.cat(times[3:])
    assert sorted(set(first.tolist())) == [0.25, 0.5]
    assert float((later == 1.0).float().mean()) == pytest.approx(0.7, abs=0.02)


def test_every_parameter_of_the_discriminator_has_a_gradient():
    made = made_of(LADD(), KINDS[0])
    loss = all_losses(LADD(r1=0.0), made, twice()[0])["discriminator"]
    found = torch.autograd.grad(loss, list(made.discriminator.parameters()), allow_unused=True)
    assert all(g is not None for g in found)


def test_parts():
    in_parts(LADD(), made_of(LADD(), KINDS[0]))
    in_parts(LADD(distillation=1.0), made_of(LADD(), KINDS[0]), step=700)


def test_the_discriminator_learns_and_the_student_follows_it():
    torch.manual_seed(0)
    student = Denoiser(Shifted(), schedules.flow(), "flow")
    teacher = Denoiser(Exact(lambda: 0.0).requires_grad_(False), student.schedule, "flow")
    recipe = LADD(warmup=0, mean=-1.0, r1=1e-3)
    made = {**recipe.networks(teacher), "student": student}
    watched = made["teacher"].model

    @torch.no_grad()
    def apart():
        t = torch.full((64,), 0.1)
        seen = (watched(0.9 * (m + torch.randn(64, 4)), t, features=True) for m in (2, 0))
        real, fake = (made["discriminator"](features, t)[0][0].mean() for features in seen)
        return float(real - fake)

    shifts, apart = zip(*played(recipe, networks(**made), apart), strict=True)
    assert max(apart[:30]) > 0.5
    assert sum(shifts[-40:]) / 40 == pytest.approx(2.0, abs=0.6)


def test_networks():
    dit = DiT(size=8, patch=4, width=16, depth=3, heads=2, classes=3)
    unet = UNet(size=8, width=8, multipliers=(1, 2), blocks=1, classes=3)

    def heads(recipe, network):
        made = recipe.networks(Denoiser(network, schedules.flow(), "flow"))
        assert set(made) == {"student", "discriminator", "teacher"}
        return [head.first.in_channels for head in made["discriminator"].heads]

    assert heads(LADD(), dit) == [16, 16, 16]
    assert heads(LADD(), unet) == [8, 16, 16, 16, 16, 8, 8]
    assert heads(LADD(blocks=("blocks.1", "blocks.2")), dit) == [16, 16]
    assert heads(LADD(blocks=("blocks.1", "blocks.2"), widths=(16,)), dit) == [16, 16]
    assert heads(LADD(widths=(8, 16, 16, 16, 16, 8, 8)), unet)[0] == 8
    with pytest.raises(ValueError, match="one width for all of 3 blocks or one for each"):
        heads(LADD(widths=(16, 16)), dit)
    assert not any(m._forward_hooks for m in dit.modules())


@pytest.mark.parametrize(
    "options",
    [{"r1": -1.0}, {"std": 0.0}, {"warmup": -1}, {"distillation": -0.1}, {"classes": -1}, {"text": "text"}],
)
def test_errors(options):
    with pytest.raises(ValueError, match="ladd needs weights, classes and warmup"):
        LADD(**options)


def test_times_and_shares_are_checked():
    with pytest.raises(ValueError, match="ladd needs times"):
        LADD(times=(0.9, 0.5))
    with pytest.raises(ValueError, match="ladd needs a share for each of 4 times"):
        LADD(shares=(0.5, 0.5))
    with pytest.raises(ValueError, match="ladd needs a share"):
        LADD(first_shares=(0.5, 0.5, 0.5, 0.0))


def test_a_discriminator_that_diverged_is_named(tmp_path):
    assert_a_discriminator_that_diverged_is_named(LADD(r1=1e39), tmp_path)  # infinite in float32


def test_without_r1_nothing_is_differentiated_twice(monkeypatch):
    assert_a_penalty_that_counts_nothing_is_left_out(LADD, made_of(LADD(), KINDS[0]), monkeypatch)


def test_a_teacher_of_16_bits():
    """Its features are seen in its own precision, with gradients to the samples."""
    teacher = Denoiser(DiT(size=8, patch=4, width=16, depth=2, heads=2), schedules.flow(), "flow")
    teacher.model.bfloat16().requires_grad_(False)
    watched = LADD().networks(teacher)["teacher"].model
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    features = watched(x, torch.full((2,), 0.5), features=True)
    assert [f.dtype for f in features] == [torch.float32] * 2
    (gradient,) = torch.autograd.grad(sum(f.sum() for f in features), x)
    assert gradient.isfinite().all()
    assert gradient.any()
