"""The order of elements in memory: which one a result has, and tensors as a kernel reads them."""

from __future__ import annotations

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
