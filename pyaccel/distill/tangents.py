"""Derivatives of a network along a direction of its inputs, which MeanFlow, sCM and Align Your Flow learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .students import per_sample

Tangent = Literal["forward", "finite"]


@torch.no_grad()
def directional_derivative(
    f: Callable[..., Tensor],
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    how: Tangent = "forward",
    h: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """(f(primals), d/dε f(primals + ε·tangents) at 0), both without a graph.

    ``forward`` is forward-mode differentiation, exact. ``finite`` is (f(+h) − f(−h))/2h, and the value their mean:
    for networks without forward mode, and for those that follow fast waves of time (sinusoidal embeddings of 1000·t),
    whose exact derivative is mostly that of their ripples; ``h`` is what it smooths over.

    ``f`` must be the network itself, not a wrapper that shares gradients.
    """
    primals, tangents = tuple(primals), tuple(tangents)
    if how == "finite":
        above = f(*(p + h * d for p, d in zip(primals, tangents, strict=True)))
        below = f(*(p - h * d for p, d in zip(primals, tangents, strict=True)))
        return 0.5 * (above + below), (above - below) / (2 * h)
    if how != "forward":
        raise ValueError(f"a tangent is made 'forward' or 'finite', got {how!r}")
    # PyTorch's other attention kernels have no forward mode; ours, ops.attention, does not look at this.
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(f, primals, tangents)


def trajectory_derivative(
    f: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, v: Tensor, how: Tangent = "forward", h: float = 0.01
) -> Tensor:
    """df/dt of f(x, t) [b, ...] along the trajectory of velocity v through x [b, ...] at t [b]; no gradient flows.

    No network knows times beyond 0 and 1: differences that would reach there are taken at the nearest point of the
    trajectory from which they do not.
    """
    middle = within(t, how, h)
    x = x + per_sample(middle - t, x) * v
    return directional_derivative(f, (x, middle), (v, torch.ones_like(t)), how, h)[1]


def within(t: Tensor, how: Tangent, h: float) -> Tensor:
    """The nearest times to t from which a derivative made so stays between 0 and 1."""
    return t.clamp(h, 1 - h) if how == "finite" else t
