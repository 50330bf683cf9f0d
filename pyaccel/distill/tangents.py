"""Derivatives of a network along a direction of its inputs, which MeanFlow, sCM and Align Your Flow learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

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
