"""``gated_combination``: residual + gate ⊙ Σ w_j·h_j, a cached branch of a transformer block put in its place.

Where nothing is quantized and there is no gate, it is a ``linear_combination``. Otherwise it is one pass over the rows
on a CPU (csrc/remembered.h), or a few operations of torch, there over stretches of rows that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import backend
from .checks import refuse_overlap
from .epilogues import check_finite, check_tensor, written
from .linear_combination import linear_combination
from .quantize import STRETCH, Quantized
from .reference import accumulator


def gated_combination(
    residual: Tensor | None,
    gate: Tensor | None,
    tensors: Sequence[Tensor | Quantized],
    weights: Sequence[float],
    *,
    out: Tensor | None = None,
) -> Tensor:
    """residual + gate ⊙ Σ_j weights[j]·tensors[j].

    Args:
        residual: of the tensors' shape; None for 0.
        gate: of a shape that broadcasts to theirs, such as [B, 1, C] to [B, N, C]; None for 1.
        tensors: one or more of one shape; float32, bfloat16, float16, float64 or :class:`Quantized`, each its own.
        weights: as many finite numbers.
        out: a tensor of that shape to write into. It may be the residual or one of the tensors.

    Returns a tensor of ``out``'s dtype, or the residual's, or the one that the tensors promote to (float32 where all
    are quantized). Sums are in float32, in float64 where any operand is float64. Gradients flow to residual, gate and
    tensors, but not to what is quantized.

    Raises ValueError for shapes, counts or numbers that do not fit, TypeError for anything but real tensors.
    """
    tensors, weights = list(tensors), [check_finite(w, "gated_combination: a weight") for w in weights]
    if not tensors or len(tensors) != len(weights):
        raise ValueError(f"gated_combination: {len(tensors)} tensors and {len(weights)} weights; expected as many")
    plain = [t for t in tensors if not isinstance(t, Quantized)]
    given = {f"tensors[{j}]": t for j, t in enumerate(tensors) if not isinstance(t, Quantized)}
    shape, device = tensors[0].shape, (plain or [tensors[0].codes])[0].device
    if residual is not None:
        given["residual"] = residual
    for name, t in given.items():
        check_tensor(t, f"gated_combination: {name}")
    for name, t in {**given, **{f"tensors[{j}]": t for j, t in enumerate(tensors)}}.items():
        if t.shape != shape:
            raise ValueError(f"gated_combination: {name} is {tuple(t.shape)}, tensors[0] {tuple(shape)}")
    if gate is not None:
        check_tensor(gate, "gated_combination: gate")
        try:
            gate.expand(shape)
        except RuntimeError:
            raise ValueError(
                f"gated_combination: a gate of shape {tuple(gate.shape)} does not broadcast to {tuple(shape)}"
            ) from None
    dtype = _dtype(residual, plain, out)
    if out is not None:
        if out.shape != shape or out.device != device:
            raise ValueError(f"gated_combination: out is {tuple(out.shape)} on {out.device}, expected {tuple(shape)}")
        others = [t for t in (*plain, residual) if t is not None]
        refuse_overlap(others, [out])
    if gate is None and len(plain) == len(tensors):
        if residual is not None:
            tensors, weights = [residual, *tensors], [1.0, *weights]
        if out is not None:
            return linear_combination(tensors, [weights], out=[out])[0]
        return linear_combination(tensors, [weights], dtype=dtype)[0]
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (*given.values(), gate) if t is not None)
    rows = shape[0] if len(shape) > 1 else 1
    stretched = out is not None or not needs_grad
    if stretched:
        result = _native(residual, gate, tensors, weights, dtype, out)
        if result is not None:
            return result
    if not stretched or device.type != "cpu" or tensors[0].shape.numel() <= STRETCH or rows < 2:
        return written(_formula(residual, gate, tensors, weights, dtype), out)
    return _in_stretches(residual, gate, tensors, weights, dtype, out)


def _dtype(residual, plain: list[Tensor], out) -> torch.dtype:
    if out is not None:
        return out.dtype
    if residual is not None:
        return residual.dtype
    dtype = plain[0].dtype if plain else torch.float32
    for t in plain[1:]:
        dtype = torch.promote_types(dtype, t.dtype)
    return dtype


def _formula(residual, gate, tensors, weights, dtype: torch.dtype) -> Tensor:
    operands = [t.dtype for t in (*tensors, residual, gate) if isinstance(t, Tensor)]
    wide = accumulator([*operands, dtype])
    total = None
    for w, t in zip(weights, tensors, strict=True):
        term = t.codes.to(wide) * (w * t.scales.to(wide))[..., None] if isinstance(t, Quantized) else w * t.to(wide)
        total = term if total is None else total + term
    if gate is not None:
        total = gate.to(wide) * total
    if residual is not None:
        total = residual.to(wide) + total
    return total.to(dtype)


def _in_stretches(residual, gate, tensors, weights, dtype: torch.dtype, out) -> Tensor:
    """The formula for some rows after the other, on a CPU."""
    shape = tensors[0].shape
    result = torch.empty(shape, dtype=dtype) if out is None else out
    full_gate = None if gate is None else gate.expand(shape)
    # The dimension before the last is cut where samples are large.
    samples = range(shape[0]) if len(shape) > 2 else [slice(None)]
    step = max(1, STRETCH // max(1, shape[-1] * (shape[2:-1].numel() if len(shape) > 3 else 1)))
    for sample in samples:
        cut = [None if t is None else _at(t, sample) for t in (residual, full_gate, *tensors, result)]
        for first in range(0, len(cut[-1]), step):
            some = [None if t is None else _at(t, slice(first, first + step)) for t in cut]
            some[-1].copy_(_formula(some[0], some[1], some[2:-1], weights, dtype))
    return result


def _native(residual, gate, tensors, weights, dtype: torch.dtype, out) -> Tensor | None:
    """The values by the native loop, or None where it does not take these."""
    shape = tensors[0].shape
    if not len(shape):
        return None
    codes = [(t, w) for t, w in zip(tensors, weights, strict=True) if isinstance(t, Quantized)]
    plain = [(t, w) for t, w in zip(tensors, weights, strict=True) if not isinstance(t, Quantized)]
    dense = [*(t for t, _ in plain), *(x for t, _ in codes for x in t), residual, gate, out]
    repeats = 1 if gate is None else _rows_of_each_gate(gate.shape, shape)
    if dtype == torch.float64 or repeats is None or not backend.narrow_and_dense(*dense):
        return None
    if any(t.codes.dtype != torch.int8 for t, _ in codes):
        return None
    result = torch.empty(shape, dtype=dtype) if out is None else out
    code_of = backend.CODES
    single = [(0, 0) if t is None else (t.data_ptr(), code_of[t.dtype]) for t in (gate, residual, result)]
    backend._native.gated_rows(
        [t.data_ptr() for t, _ in plain], [code_of[t.dtype] for t, _ in plain], [w for _, w in plain],
        [t.codes.data_ptr() for t, _ in codes], [t.scales.data_ptr() for t, _ in codes], [w for _, w in codes],
        *single[0], max(1, repeats), *single[1], *single[2], shape[:-1].numel(), shape[-1],
    )  # fmt: skip
    if out is not None:
        torch.autograd.graph.increment_version([out])
    return result


def _rows_of_each_gate(gate: torch.Size, shape: torch.Size) -> int | None:
    """How many rows one row of the gate serves; None where it is not made of whole rows, or not in their order."""
    padded = (1,) * (len(shape) - len(gate)) + tuple(gate)
    if padded[-1] != shape[-1]:
        return None
    same = 0
    while same < len(shape) - 1 and padded[same] == shape[same]:
        same += 1
    return shape[same:-1].numel() if all(d == 1 for d in padded[same:-1]) else None


def _at(t, index):
    return Quantized(t.codes[index], t.scales[index]) if isinstance(t, Quantized) else t[index]
