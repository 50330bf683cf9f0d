"""The order of elements in memory: which one a result has, and tensors as a kernel reads them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def dense(t: Tensor, memory_format: torch.memory_format) -> Tensor:
    """``t``, or a copy of it, whose memory holds its values in the order of ``memory_format``."""
    t = t.contiguous(memory_format=memory_format)
    # A negated view's memory holds the opposite of its values, and a zero tensor (of autograd) has no memory.
    return t.clone() if t.is_neg() or t._is_zerotensor() else t


def memory_format_of(tensors, shape) -> torch.memory_format:
    """Channels-last when the first tensor of the full shape is so, otherwise contiguous; never another order."""
    full = next((t for t in tensors if t.shape == shape), None)
    if full is not None and not full.is_contiguous():
        for rank, candidate in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if full.dim() == rank and full.is_contiguous(memory_format=candidate):
                return candidate
    return torch.contiguous_format


def in_memory_order(t: Tensor, memory_format: torch.memory_format) -> Tensor:
    """A view of ``t`` whose dimensions stand in the order of ``memory_format``: contiguous where ``t`` is dense in it.

    The first dimension, that of the samples, stays the first.
    """
    if memory_format in (torch.channels_last, torch.channels_last_3d):
        return t.movedim(1, -1)
    return t


def unexpanded(t: Tensor) -> Tensor:
    """``t`` with one entry along each dimension in which it is expanded."""
    for d, (size, stride) in enumerate(zip(t.shape, t.stride(), strict=True)):
        if stride == 0 and size > 1:
            t = t.narrow(d, 0, 1)
    return t


def contiguous_parts(tensors: list[Tensor], most: int, depth: int) -> Iterator[list[Tensor]]:
    """The same parts of tensors of one shape, cut along their first ``depth`` dimensions.

    Each part is contiguous already, or a copy of about ``most`` elements where it can be cut so small.
    """
    first = tensors[0]
    if all(t.is_contiguous() and not t.is_neg() for t in tensors) or first.numel() <= most or depth == 0:
        yield [dense(t, torch.contiguous_format) for t in tensors]
        return
    inner = first.numel() // len(first)
    if inner > most // 2:
        for i in range(len(first)):
            yield from contiguous_parts([t[i] for t in tensors], most, depth - 1)
    else:
        step = most // inner
        for i in range(0, len(first), step):
            yield from contiguous_parts([t[i : i + step] for t in tensors], most, 0)
