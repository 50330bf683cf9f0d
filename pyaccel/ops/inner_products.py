"""``inner_products``: the gradient of ``linear_combination`` to its coefficients, all of them in one pass.

The sums are those of csrc/inner_products.h. The native kernel serves the CPU; other devices take a matrix product,
which wants the tensors in one, or one product after the other where that would take much memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import backend, reference
from .layout import dense, in_memory_order, memory_format_of

STACKED = 1 << 22
"""Elements up to which tensors on a GPU are put into one for the matrix product: a few launches instead of n·k."""


def inner_products(left: Sequence[Tensor], right: Sequence[Tensor], per_sample: bool = False) -> Tensor:
    """G[i, j] = Σ left_i·right_j over all elements, [n, k]; ``per_sample`` over those of each sample, [B, n, k].

    Args:
        left, right: n and k tensors of one shape on one device; float32, bfloat16, float16 or float64, each its own.
        per_sample: tell the samples of the first dimension apart.

    Returns float64 from the native kernel, otherwise what the sums were made in. Differentiable, by the formula.
    """
    everything = [*left, *right]
    batch = left[0].shape[0] if per_sample else 1
    records = torch.is_grad_enabled() and any(t.requires_grad for t in everything)
    if left[0].device.type == "cpu" and batch and not records and _native_serves():
        memory_format = memory_format_of(everything, left[0].shape)
        ready = [in_memory_order(dense(t.detach(), memory_format), memory_format) for t in everything]
        out = torch.empty(batch, len(left), len(right), dtype=torch.float64)
        if backend._native.inner_products(ready[: len(left)], ready[len(left) :], batch, out):
            return out if per_sample else out[0]
    shape = batch, left[0].numel() // max(1, batch)
    acc = reference.accumulator([t.dtype for t in everything])
    if left[0].numel() * len(everything) > STACKED and not records:
        flat = [[t.to(acc).reshape(shape) for t in tensors] for tensors in (left, right)]
        rows = [torch.stack([(g * x).sum(dim=1) for x in flat[1]], dim=-1) for g in flat[0]]
        sums = torch.stack(rows, dim=1)
    else:
        g, x = (torch.stack([t.to(acc).reshape(shape) for t in ts], dim=1) for ts in (left, right))
        sums = g @ x.transpose(1, 2)
    return sums if per_sample else sums[0]


def _native_serves() -> bool:
    return backend.choose(torch.device("cpu")) == "native" and backend.private_names_work() and backend.plain()
