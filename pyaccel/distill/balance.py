"""Weights of several losses by their gradients at the last layer, as VQGAN's (Esser et al. 2021, arXiv 2012.09841)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..training.parallel import mean_over_ranks


@contextmanager
def watched(layer: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """``with watched(layer) as calls``: (input, output) of each call of the layer meanwhile, with their graphs."""
    calls: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _module, inputs, output: calls.append((inputs[0], output)))
    try:
        yield calls
    finally:
        hook.remove()


def last_layer(network: nn.Module, name: str = "") -> nn.Module:
    """The layer called ``name``; by default the last one with a weight that is linear in its input.

    ValueError where there is none.
    """
    if name:
        return network.get_submodule(name)
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [module for module in network.modules() if isinstance(module, kinds)]
    if not layers:
        raise ValueError(
            f"{type(network).__name__} has no linear or convolutional layer: name its last, last_layer='...'"
        )
    return layers[-1]


def weight_gradient(layer: nn.Module, given: Tensor, gradient: Tensor) -> Tensor:
    """dL/dW of a layer that was given ``given`` and whose output has the gradient ``gradient``.

    It is made anew, not asked of the layer's own parameters, whose gradients ranks share and which may be in shards.
    The layer is linear in W, so the gradient does not depend on W's value: zeros stand for it.
    """
    zeros = {name: torch.zeros(p.shape, device=given.device, dtype=p.dtype) for name, p in layer.named_parameters()}
    weight = zeros["weight"].requires_grad_()
    with torch.enable_grad():
        again = torch.func.functional_call(layer, zeros, (given.detach(),))
    return torch.autograd.grad(again, weight, gradient.to(again.dtype))[0]


def adaptive_weights(layer: nn.Module, given: Tensor, gradients: list[Tensor]) -> Tensor:
    """[n]: for each loss ‖∇_W L_0‖/(‖∇_W L_i‖ + 1e-4) of the layer's weight W, at most 1e4; 1 for the first itself.

    ``gradients`` are those of the losses by the layer's output. They are the means over all ranks.
    """
    of_weight = torch.stack([weight_gradient(layer, given, g) for g in gradients])
    of_weight = mean_over_ranks(of_weight.to(torch.promote_types(of_weight.dtype, torch.float32)))
    norms = torch.linalg.vector_norm(of_weight.flatten(1), dim=1)
    ratios = norms[0] / (norms + 1e-4)
    return torch.cat([torch.ones_like(ratios[:1]), ratios[1:].clamp_max(1e4)])


def with_gradient(value: Tensor, at: Tensor, gradient: Tensor) -> Tensor:
    """``value``, without dimensions, whose gradient by the tensor ``at`` is ``gradient``."""
    return value.detach() + ((at - at.detach()) * gradient).sum()
