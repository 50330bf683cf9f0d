import pytest
import torch
import torch.nn.functional as F

from pyaccel.models import DiT


def randomised(**options):
    model = DiT(width=16, depth=2, heads=2, **options).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model.requires_grad_(False)


def test_starts_as_zero():
    model = DiT(size=8, width=16, depth=2, heads=2)
    assert torch.equal(model(torch.randn(2, 1, 8, 8), torch.rand(2)), torch.zeros(2, 1, 8, 8))


def test_patches_return_to_their_places():
    """With blocks that do nothing the model acts on each patch alone, in its place."""
    model = randomised(size=8, patch=4, channels=3)
    for block in model.blocks:
        torch.nn.init.zeros_(block.modulation.weight)
        torch.nn.init.zeros_(block.modulation.bias)
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    out = model(x, t)
    changed = x.clone()
    changed[:, :, 4:, :4] += 1
    difference = (model(changed, t) - out).abs().amax(dim=(0, 1))
    assert float(difference[4:, :4].min()) > 0
    difference[4:, :4] = 0
    assert float(difference.max()) == 0

    tokens = F.unfold(x, 4, stride=4).transpose(1, 2)
    h = model.embed(tokens) + model.position
    shift, scale = model.modulation(F.silu(model.conditioning(t, None)))[:, None].chunk(2, dim=-1)
    patches = model.head(model.norm(h) * (1 + scale) + shift)
    torch.testing.assert_close(out, F.fold(patches.transpose(1, 2), 8, 4, stride=4), rtol=1e-5, atol=1e-5)


def test_time_label_and_place_matter():
    model = randomised(size=8)
    x, t, label = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 2])
    out = model(x, t, label)
    assert not torch.allclose(out, model(x, t + 0.1, label), atol=1e-4)
    assert not torch.allclose(out, model(x, t, label + 1), atol=1e-4)
    assert not torch.allclose(out.flip(-1), model(x.flip(-1), t, label), atol=1e-4)
    torch.testing.assert_close(model(x, t), model(x, t, torch.tensor([10, 10])))


def test_samples_of_a_batch_are_independent():
    model = randomised(size=8)
    x, t, label = torch.randn(3, 1, 8, 8), torch.rand(3), torch.tensor([1, 2, 3])
    torch.testing.assert_close(model(x, t, label)[1:2], model(x[1:2], t[1:2], label[1:2]), rtol=1e-5, atol=1e-6)


def test_bad_sizes():
    with pytest.raises(ValueError, match="must divide"):
        DiT(size=10, patch=4)
