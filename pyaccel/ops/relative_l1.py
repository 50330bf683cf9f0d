"""``relative_l1``: how much a tensor differs from another one, as one number: the probe of dynamic caches.

Σ|a − b| / Σ|b|, read once; the loop is in csrc/remembered.h. Without it, and for float64, on a CPU in stretches that
stay in the cache; sums of stretches are in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend
from .epilogues import check_tensor

STRETCH = 1 << 17  # elements: two operands and their difference stay in the second cache


@torch.no_grad()
def relative_l1(a: Tensor, b: Tensor) -> Tensor:
    """Σ|a − b| / Σ|b| over all elements, as a tensor without dimensions on their device.

    Args:
        a, b: of one shape, any strides; float32, bfloat16, float16 or float64, each its own.

    Returns float32, float64 where an operand is float64. It is 0 where both sums are 0, infinite where only the
    second is, and NaN where there is a NaN. No gradient flows.

    Raises ValueError for shapes or devices that differ, TypeError for anything but real floating-point tensors.
    """
    for name, t in (("a", a), ("b", b)):
        check_tensor(t, f"relative_l1: {name}")
    if a.shape != b.shape or a.device != b.device:
        raise ValueError(
            f"relative_l1: a is {tuple(a.shape)} on {a.device}, b {tuple(b.shape)} on {b.device}; expected the same"
        )
    wide = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    if backend.narrow_and_dense(a, b):
        codes = backend.CODES
        sums = backend._native.relative_l1(a.data_ptr(), codes[a.dtype], b.data_ptr(), codes[b.dtype], a.numel())
        difference, size = torch.tensor(sums, dtype=torch.float64)
    elif a.is_cpu and a.numel() > STRETCH and a.is_contiguous() and b.is_contiguous():
        difference = size = torch.zeros((), dtype=torch.float64)
        for x, y in zip(a.view(-1).split(STRETCH), b.view(-1).split(STRETCH), strict=True):
            y = y.to(wide)
            difference = difference + (x.to(wide) - y).abs_().sum()
            size = size + y.abs().sum()
    else:
        other = b.to(wide)
        difference, size = (a.to(wide) - other).abs_().sum(), other.abs().sum()
    return torch.where((size == 0) & (difference == 0), torch.zeros_like(size), difference / size).to(wide)
