import pytest
import torch

from pyaccel.models import UNet


def test_shapes_labels_and_times():
    model = UNet(size=8, channels=2, width=8, multipliers=(1, 2), blocks=1).eval()
    x, t = torch.randn(2, 2, 8, 8), torch.rand(2)
    assert torch.equal(model(x, t), torch.zeros_like(x))  # starts as zero
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    out = model(x, t, torch.tensor([0, 1]))
    assert out.shape == x.shape
    assert not torch.allclose(out, model(x, t + 0.3, torch.tensor([0, 1])), atol=1e-4)
    assert not torch.allclose(out, model(x, t, torch.tensor([3, 1])), atol=1e-4)
    torch.testing.assert_close(model(x, t), model(x, t, torch.tensor([10, 10])))


def test_every_parameter_takes_part():
    model = UNet(size=8, width=8, multipliers=(1, 2), blocks=1)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    model(torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 1])).square().mean().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.parameters())


def test_bad_size():
    with pytest.raises(ValueError, match="divisible by 4"):
        UNet(size=30)
