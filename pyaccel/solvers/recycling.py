"""Large tensors written again once nobody holds them: fresh memory of many megabytes costs more than the step itself.

Operating systems hand out large memory page by page at the first touch, at a few GB/s. A run makes a new sample in each
step, as whoever kept the last one must never see it change. Where nobody did, its memory can serve again.
"""

from __future__ import annotations

import sys

import torch

LARGE = 1 << 20
"""Bytes from which it pays; below, the allocator keeps memory at hand."""

_storage_uses = getattr(torch._C, "_storage_Use_Count", None)


class Recycler:
    """Hands out tensors, and takes back those that nobody else can reach."""

    def __init__(self, like: torch.Tensor):
        self.active = _works() and like.device.type == "cpu" and like.numel() * like.element_size() >= LARGE
        self._free: list[torch.Tensor] = []

    def new(self, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A tensor with the shape and layout of ``like`` and with any contents."""
        for i, tensor in enumerate(self._free):
            if tensor.dtype == dtype and tensor.stride() == like.stride() and tensor.shape == like.shape:
                return self._free.pop(i)
        return torch.empty_like(like, dtype=dtype)

    def offer(self, tensor: torch.Tensor) -> None:
        """Takes ``tensor`` back if one variable of the caller is all that refers to it, and none shares its memory."""
        if sys.getrefcount(tensor) == _alone and _uses(tensor) == _unshared:
            self._free.append(tensor)


def _uses(tensor: torch.Tensor) -> int:
    return _storage_uses(tensor.untyped_storage()._cdata)


def _works() -> bool:
    return _alone is not None


def _calibrated() -> tuple[int | None, int]:
    """The counts of a tensor that only one variable of a caller refers to; None where torch's inside has changed."""
    if _storage_uses is None:
        return None, 0

    def count(tensor):
        return sys.getrefcount(tensor), _uses(tensor)

    own = torch.empty(1)
    references, uses = count(own)
    kept = own  # another variable and, below, a view must both be noticed
    noticed = count(own) == (references + 1, uses)
    view = kept[:0]
    noticed = noticed and count(own)[1] == uses + 1 and view.numel() == 0
    return (references, uses) if noticed else (None, 0)


_alone, _unshared = _calibrated()
