"""``relative_l1``: how much a tensor differs from another one, as one number: the probe of dynamic caches.

The sums are those of csrc/relative_l1.h, the semantics in reference.py. torch.compile, torch.func and dispatch modes
take the formula; other calls the kernel of the backend, in parts where tensors are not contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend, reference
from .epilogues import check_tensor, takes_formula
from .layout import contiguous_parts

PART = 1 << 17
"""Elements that are copied at once where memory is not contiguous: they stay in the cache."""

LAUNCHED_PART = 1 << 22
"""The same on a GPU, where each part costs a launch."""


@torch.no_grad()
def relative_l1(a: Tensor, b: Tensor) -> Tensor:
    """Σ|a − b| / Σ|b| over all elements, as a tensor without dimensions on their device.

    Args:
        a, b: of one shape, any strides; float32, bfloat16, float16 or float64, each its own. Each is read once, and no
            temporary of their size is made.

    Returns float32, float64 where an operand is float64. It is 0 where both sums are 0, infinite where only the
    second is, and NaN where there is a NaN. A kernel adds up a few thousand elements in float32 and their sums in
    float64, always in the same order, so the result is accurate for any size. It is a constant to autograd: no
    gradient and no tangent flows.

    Raises ValueError for shapes or devices that differ, TypeError for anything but real floating-point tensors.
    """
    for name, t in (("a", a), ("b", b)):
        check_tensor(t, f"relative_l1: {name}")
    if a.shape != b.shape or a.device != b.device:
        raise ValueError(
            f"relative_l1: a is {tuple(a.shape)} on {a.device}, b {tuple(b.shape)} on {b.device}; expected the same"
        )
    a, b = a.detach(), b.detach()
    dtype = reference.accumulator([a.dtype, b.dtype])
    chosen = "reference" if takes_formula(a, b) else backend.choose(a.device)
    if chosen == "native" and a.is_cuda:
        quotient = _gpu_quotient(a, b, dtype)
        if quotient is not None:
            return quotient
        chosen = "reference"
    sums = None if chosen == "reference" else _kernel_sums(chosen, a, b)
    if sums is None:
        sums = reference.relative_l1(a, b)
    difference, size = sums
    if isinstance(size, float):
        return torch.tensor(_quotient(difference, size), dtype=dtype)
    return torch.where((size == 0) & (difference == 0), torch.zeros_like(size), difference / size).to(dtype)


def _quotient(difference: float, size: float) -> float:
    if size:
        return difference / size
    return float("inf") if difference > 0 else difference  # 0 or NaN


def _parts(a: Tensor, b: Tensor, most: int):
    # Sums do not ask for the order of dimensions: b's memory's is the best one.
    order = sorted(range(b.dim()), key=lambda d: -b.stride(d))
    return contiguous_parts([t.permute(order) for t in (a, b)], most, a.dim())


def _gpu_quotient(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The result by the CUDA kernels, without waiting for the GPU; None for a subclass that no kernel reads."""
    if not a.numel():
        return torch.zeros((), dtype=dtype, device=a.device)
    native, sums = backend._native, []
    for x, y in _parts(a, b, LAUNCHED_PART):
        partial = torch.empty(native.relative_l1_blocks(x.numel()), 2, dtype=torch.float64, device=a.device)
        if not native.relative_l1_partial(x, y, partial):
            return None
        sums.append(partial)
    out = torch.empty((), dtype=dtype, device=a.device)
    return out if native.relative_l1_quotient(torch.cat(sums) if len(sums) > 1 else sums[0], out) else None


def _kernel_sums(chosen: str, a: Tensor, b: Tensor):
    """The two sums as numbers or tensors; None for a subclass that no kernel reads."""
    if chosen == "native":
        kernel_sums = backend._native.relative_l1
        sums = kernel_sums(a, b)
        if sums is not None:
            return sums
        part = PART
    else:
        from ..triton_kernels.relative_l1 import sums as kernel_sums

        part = LAUNCHED_PART
    difference = size = 0.0
    for x, y in _parts(a, b, part):
        sums = kernel_sums(x, y)
        if sums is None:
            return None
        difference, size = difference + sums[0], size + sums[1]
    return difference, size
