import pytest
import torch
from torch import nn

from pyaccel.distill.balance import adaptive_weights, last_layer, watched, weight_gradient, with_gradient
from pyaccel.models import DiT, UNet

from .references import Small

LAYERS = {
    "linear": (nn.Linear(5, 3), (4, 7, 5)),
    "no bias": (nn.Linear(5, 3, bias=False), (4, 5)),
    "convolution": (nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2), (3, 4, 7, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_a_layers_weight(name):
    layer, shape = LAYERS[name]
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    output = layer(x)
    loss = output.sin().sum()
    (expected,) = torch.autograd.grad(loss, layer.weight, retain_graph=True)
    (gradient,) = torch.autograd.grad(loss, output)
    with torch.no_grad():
        found = weight_gradient(layer, x, gradient)
    torch.testing.assert_close(found, expected)
    assert layer.weight.grad is None


def test_weights_are_ratios_of_norms():
    layer = nn.Linear(5, 3).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    with watched(layer) as calls:
        layer(x).sum()
    layer(x)
    ((given, output),) = calls
    losses = [(output**k).mean() for k in (2, 3)] + [0.0 * output.sum(), 3e-9 * output.sum()]
    gradients = [torch.autograd.grad(loss, output, retain_graph=True)[0] for loss in losses]
    found = adaptive_weights(layer, given, gradients)
    norms = [torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm() for loss in losses]
    expected = [1.0] + [min(float(norms[0] / (n + 1e-4)), 1e4) for n in norms[1:]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    (much,) = torch.autograd.grad(1e6 * output.sum(), output)
    assert adaptive_weights(layer, given, [much, 0 * much])[1] == 1e4


def test_a_value_with_a_gradient():
    x = torch.randn(3, requires_grad=True)
    y = x.exp()
    gradient = torch.randn(3)
    loss = with_gradient(torch.tensor(2.5, requires_grad=True), y, gradient)
    assert float(loss.detach()) == 2.5
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], gradient * x.detach().exp())


def test_the_last_layer():
    dit = DiT(size=8, patch=4, width=16, depth=2, heads=2, classes=3, second_time=True)
    unet = UNet(size=8, width=8, multipliers=(1, 2), blocks=1, classes=3, second_time=True)
    small = Small()
    assert last_layer(dit) is dit.head
    assert last_layer(unet) is unet.last
    assert last_layer(small) is small.last
    assert last_layer(dit, "blocks.1.modulation") is dit.blocks[1].modulation
    with pytest.raises(ValueError, match="Identity has no linear or convolutional layer"):
        last_layer(nn.Identity())
