"""``threshold``: predictions of x0 clamped, by a fixed limit or by each sample's quantile, in place if wanted.

The arithmetic is in csrc/threshold.h, the semantics in reference.py. Dense tensors without gradients go straight
to the native kernel. Otherwise, in this order: forward mode, torch.compile, torch.func and dispatch modes, and
gradients take the formula; the rest takes the kernel of the backend, through copies where its layout wants one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend, reference
from .epilogues import check_number, check_out, check_tensor, takes_formula, written
from .layout import dense, in_memory_order, memory_format_of

_empty_like = torch.empty_like
_is_compiling = torch.compiler.is_compiling
_grad_enabled = torch.is_grad_enabled
_increment_version = torch.autograd.graph.increment_version
_plain = backend.plain
_native_first = backend.native_first()
_native = backend._native.threshold if backend._native is not None else None


def _scratch(like: Tensor, size: int) -> Tensor:
    """Bytes beside ``like``, for a GPU's kernels."""
    return torch.empty(size, dtype=torch.uint8, device=like.device)


def threshold(x0: Tensor, limit: float, ratio: float = 0.0, *, out: Tensor | None = None) -> Tensor:
    """``x0`` [B, ...] clamped to ±``limit``, or dynamic thresholding (Saharia et al. 2022, section 2.3).

    Args:
        x0: predictions, one for each sample of the first dimension; float32, bfloat16, float16 or float64; any strides.
        limit: a number above 0; infinity with a ratio is the paper's thresholding without an upper limit.
        ratio: 0 for the plain clamp. In (0, 1): s is this quantile of \\|x0\\| in each sample, linear between the two
            nearest order statistics as in ``torch.quantile``, clamped to [1, max(``limit``, 1)]; the result is x0
            clamped to ±s and divided by s.
        out: a tensor of x0's shape and dtype to write into. It may be exactly x0; overlap in part is refused.

    A NaN stays one, and makes a NaN of its whole sample where there is a ratio, as the quantile then is one. Arithmetic
    is in float32, in float64 for float64. The gradient is that of the whole formula, the quantile included;
    ``torch.func``, forward mode, ``vmap`` and ``torch.compile(fullgraph=True)`` work.

    Raises:
        ValueError: a limit or a ratio out of range, or an ``out`` that does not fit or wants gradients.
        TypeError: anything but real floating-point tensors and numbers.
    """
    if not _is_compiling() and _native_first and _plain():
        # Dense tensors, good numbers, no gradients: the common case, or None if it is another.
        result = _native(x0, limit, ratio, out, _grad_enabled(), _empty_like, _scratch)
        if result is not None:
            if out is not None:
                _increment_version([out])
            return result
    return _general(x0, limit, ratio, out)


def _general(x0, limit, ratio, out) -> Tensor:
    check_tensor(x0, "threshold: x0")
    limit, ratio = check_number(limit, "threshold: limit"), check_number(ratio, "threshold: ratio")
    if not limit > 0:
        raise ValueError(f"threshold: limit is {limit}; expected a number above 0")
    if not 0 <= ratio < 1:
        raise ValueError(f"threshold: ratio is {ratio}; expected 0, for the plain clamp, or a number in (0, 1)")
    if ratio and x0.dim() == 0:
        raise ValueError("threshold: a ratio wants x0 [B, ...], whose first dimension is that of the samples")
    check_out(out, x0, "threshold", "x0", {"x0": x0})
    if takes_formula(x0):
        return written(reference.threshold(x0, limit, ratio), out)
    return _run(x0, limit, ratio, out)


def _run(x0: Tensor, limit: float, ratio: float, out: Tensor | None) -> Tensor:
    """The values by the backend that serves these tensors, of any strides."""
    chosen, memory_format = backend.choose(x0.device), memory_format_of([x0], x0.shape)
    if chosen != "reference":
        x = dense(x0.detach(), memory_format)
        direct = out is not None and out.is_contiguous(memory_format=memory_format) and not out.is_neg()
        result = out if direct else torch.empty_like(x, memory_format=memory_format)
        ordered, to = in_memory_order(x, memory_format), in_memory_order(result.detach(), memory_format)
        if _launch(chosen, ordered, limit, ratio, to):
            if direct:
                _increment_version([out])
            return written(result, out)
    result = reference.threshold(x0, limit, ratio).contiguous(memory_format=memory_format)
    return written(result, out)


def _launch(chosen: str, x: Tensor, limit: float, ratio: float, to: Tensor) -> bool:
    """Fills ``to`` from ``x``, both contiguous; False, and nothing done, for a subclass that no kernel reads."""
    if chosen == "native":
        return _native(x, limit, ratio, to, False, _empty_like, _scratch) is not None
    if x.numel():
        from ..triton_kernels import threshold as kernel

        kernel.launch(x, reference.dynamic_limit(x, limit, ratio) if ratio else limit, to)
    return True
