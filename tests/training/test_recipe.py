import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.training.losses import Denoising
from pyaccel.training.optimizers import Optimizer
from pyaccel.training.recipe import frozen, module_of, trained, unwrapped, with_module


def test_a_frozen_network_hands_gradients_on_and_keeps_none():
    network = nn.Linear(3, 3)
    network.bias.requires_grad_(False)
    x = torch.randn(2, 3, requires_grad=True)
    with frozen(network) as f:
        f(x).sum().backward()
    assert x.grad is not None
    assert network.weight.grad is None
    assert network.weight.requires_grad
    assert not network.bias.requires_grad  # what was frozen before stays so


def test_networks_with_their_schedule():
    model = nn.Identity()
    denoiser = Denoiser(model, schedules.flow(), "flow")
    assert module_of(denoiser) is module_of(model) is model
    other = nn.Identity()
    assert with_module(denoiser, other).model is other
    assert with_module(denoiser, other).schedule is denoiser.schedule
    assert with_module(model, other) is other
    assert unwrapped(denoiser) is denoiser


def test_what_is_trained():
    assert trained(Denoising(Optimizer(0.5))) == {"model": Optimizer(0.5)}
