"""``gated_combination``: residual + gate ⊙ Σ w_j·h_j, a cached branch of a transformer block put in its place.

The arithmetic is in csrc/gated_combination.h, the semantics in reference.py. Dense tensors without gradients go
straight to the native kernel. Otherwise, in this order: forward mode, torch.compile, torch.func and dispatch modes, and
gradients take the formula; the rest takes the kernel of the backend, through copies where its layout wants one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import backend, reference
from .checks import share_in_part
from .epilogues import check_finite, check_tensor, takes_formula, written
from .layout import dense, in_memory_order, memory_format_of, unexpanded
from .quantize import Quantized

_empty_like = torch.empty_like
_is_compiling = torch.compiler.is_compiling
_grad_enabled = torch.is_grad_enabled
_increment_version = torch.autograd.graph.increment_version
_plain = backend.plain
_native_first = backend.native_first()
_native = backend._native.gated_combination if backend._native is not None else None


def gated_combination(
    residual: Tensor | None,
    gate: Tensor | None,
    tensors: Sequence[Tensor | Quantized],
    weights: Sequence[float],
    *,
    out: Tensor | None = None,
) -> Tensor:
    """residual + gate ⊙ Σ_j weights[j]·tensors[j], elementwise, in one pass over memory.

    Args:
        residual: of the tensors' shape; None for 0.
        gate: of a shape that broadcasts to theirs; None for 1. One that tokens share, such as [B, 1, C] against
            [B, N, C] or [C], is best handed over in that shape: the kernel goes over it again, where others are copied
            into the full shape first.
        tensors: one or more of one shape, any strides; float32, bfloat16, float16, float64 or :class:`Quantized`, each
            its own.
        weights: as many finite numbers.
        out: a tensor of the tensors' shape and of any dtype to write into. It may be exactly the residual, one of the
            tensors or a gate of their shape; overlap in part is refused.

    Returns a tensor of ``out``'s dtype, or the residual's, or the one that the tensors promote to (float32 where all
    are quantized). Sums are in float32, in float64 where any operand is float64. Gradients flow to residual, gate and
    tensors, and to the scales of what is quantized, whose codes are constants; ``torch.func``, forward mode, ``vmap``
    and ``torch.compile(fullgraph=True)`` work.

    Raises:
        ValueError: shapes, devices, counts or numbers that do not fit, or an ``out`` that does not or wants gradients.
        TypeError: anything but real floating-point tensors, pairs of :func:`quantize`, and numbers.
    """
    if not _is_compiling() and _native_first and _plain():
        # Dense tensors of shapes that fit, good numbers, no gradients: the common case, or None if it is another.
        result = _native(residual, gate, tensors, weights, out, _grad_enabled(), _empty_like, Quantized)
        if result is not None:
            if out is not None:
                _increment_version([out])
            return result
    return _general(residual, gate, tensors, weights, out)


def _general(residual, gate, tensors, weights, out) -> Tensor:
    tensors, weights = _checked_list(tensors, weights)
    parts = _checked_parts(residual, gate, tensors)
    shape = tensors[0].shape
    _check_out(out, shape, parts)
    dtype = out.dtype if out is not None else _dtype(residual, tensors)
    if takes_formula(*parts.values()):
        return written(reference.gated_combination(residual, gate, tensors, weights, dtype), out)
    return _run(residual, gate, tensors, weights, dtype, out)


def _checked_list(tensors, weights) -> tuple[list, list[float]]:
    if isinstance(tensors, (Tensor, Quantized)):
        raise TypeError("gated_combination: tensors must be a list of tensors, got one; write [tensor]")
    tensors = list(tensors)
    if isinstance(weights, Tensor):
        raise TypeError("gated_combination: weights are a Tensor; expected a list of numbers")
    weights = [check_finite(w, f"gated_combination: weights[{j}]") for j, w in enumerate(weights)]
    if not tensors or len(tensors) != len(weights):
        raise ValueError(
            f"gated_combination: {len(tensors)} tensors and {len(weights)} weights; expected one or more, and as many"
        )
    return tensors, weights


def _checked_parts(residual, gate, tensors: list) -> dict[str, Tensor]:
    """Every tensor that is read, by name."""
    parts = {}
    for j, t in enumerate(tensors):
        name = f"tensors[{j}]"
        if isinstance(t, Quantized):
            _check_quantized(t, f"gated_combination: {name}")
            parts |= {f"{name}.codes": t.codes, f"{name}.scales": t.scales}
        else:
            check_tensor(t, f"gated_combination: {name}")
            parts[name] = t
    shape, device = tensors[0].shape, next(iter(parts.values())).device
    if residual is not None:
        check_tensor(residual, "gated_combination: residual")
        parts["residual"] = residual
    for name, t in {**parts, "residual": residual}.items():
        expected = shape[:-1] if name.endswith(".scales") else shape
        if t is not None and t.shape != expected:
            raise ValueError(
                f"gated_combination: {name} is {tuple(t.shape)}, tensors[0] {tuple(shape)}; expected {tuple(expected)}"
            )
    if gate is not None:
        check_tensor(gate, "gated_combination: gate")
        parts["gate"] = gate
        if not _broadcasts(gate.shape, shape):
            raise ValueError(
                f"gated_combination: gate of shape {tuple(gate.shape)} does not broadcast to the tensors, "
                f"{tuple(shape)}"
            )
    for name, t in parts.items():
        if t.device != device:
            raise ValueError(f"gated_combination: {name} is on {t.device}, tensors[0] on {device}")
    return parts


def _check_quantized(q: Quantized, what: str) -> None:
    for name, t in (("codes", q.codes), ("scales", q.scales)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{what}.{name} is a {type(t).__name__}, not a tensor")
    if q.codes.dtype not in backend.CODED or q.codes.dim() < 1:
        raise TypeError(
            f"{what}.codes of shape {tuple(q.codes.shape)} have dtype {q.codes.dtype}; expected at least one dimension "
            f"and one of {', '.join(map(str, backend.CODED))}"
        )
    if q.scales.dtype != torch.float32:
        raise TypeError(f"{what}.scales have dtype {q.scales.dtype}; expected torch.float32")


def _broadcasts(gate, shape) -> bool:
    last = shape[len(shape) - len(gate) :]
    return len(gate) <= len(shape) and all(g in (1, size) for g, size in zip(gate, last, strict=True))


def _check_out(out, shape, parts: dict[str, Tensor]) -> None:
    if out is None:
        return
    check_tensor(out, "gated_combination: out")
    device = next(iter(parts.values())).device
    if out.shape != shape or out.device != device:
        raise ValueError(
            f"gated_combination: out is {tuple(out.shape)} on {out.device}, expected {tuple(shape)} on {device}"
        )
    if any(size > 1 and stride == 0 for size, stride in zip(out.shape, out.stride(), strict=True)):
        raise ValueError("gated_combination: out is an expanded tensor; several elements share memory")
    if torch.is_grad_enabled() and any(t.requires_grad for t in (out, *parts.values())):
        raise ValueError("gated_combination: out= does not support gradients; leave it away or use torch.no_grad()")
    if _is_compiling() or backend.transformed():
        return
    for name, t in parts.items():
        if share_in_part(out, t):
            raise ValueError(
                f"gated_combination: out overlaps {name} in part; it may be exactly that, or share no memory with it"
            )


def _dtype(residual: Tensor | None, tensors: list) -> torch.dtype:
    if residual is not None:
        return residual.dtype
    plain = [t.dtype for t in tensors if isinstance(t, Tensor)]
    dtype = plain[0] if plain else torch.float32
    for other in plain[1:]:
        dtype = torch.promote_types(dtype, other)
    return dtype


def _run(residual, gate, tensors: list, weights: list[float], dtype: torch.dtype, out: Tensor | None) -> Tensor:
    """The values by the backend that serves these tensors, of any strides."""
    shape = tensors[0].shape
    whole = [t for t in (*tensors, residual) if isinstance(t, Tensor)]
    # A scale belongs to a row of the last dimension, which has to be the last in memory too.
    quantized = any(isinstance(t, Quantized) for t in tensors)
    memory_format = torch.contiguous_format if quantized else memory_format_of(whole, shape)
    device = tensors[0].codes.device if isinstance(tensors[0], Quantized) else tensors[0].device
    chosen = backend.choose(device)
    if chosen != "reference":
        direct = out is not None and out.is_contiguous(memory_format=memory_format) and not out.is_neg()
        made = out if direct else torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)
        to = in_memory_order(made.detach(), memory_format)
        ordered = [_ordered(t, memory_format) for t in (residual, *tensors)]
        full = None if gate is None else in_memory_order(gate.detach().expand(shape), memory_format)
        # First the gate as it was before it was expanded, then, where that has runs too short, in full.
        for g in (None,) if full is None else (unexpanded(full), full):
            g = None if g is None else dense(g, torch.contiguous_format)
            if _launch(chosen, ordered[0], g, ordered[1:], weights, to):
                if direct:
                    _increment_version([out])
                return written(made, out)
    result = reference.gated_combination(residual, gate, tensors, weights, dtype)
    return written(result.contiguous(memory_format=memory_format), out)


def _ordered(t, memory_format: torch.memory_format):
    """``t`` as a kernel reads it."""
    if t is None:
        return None
    if isinstance(t, Quantized):
        return Quantized(t.codes.contiguous(), dense(t.scales.detach(), torch.contiguous_format))
    return in_memory_order(dense(t.detach(), memory_format), memory_format)


def _few(tensors: list, weights: list[float], like: Tensor, most: int) -> tuple[list, list[float]]:
    """At most so many tensors and weights of the same sum; what is too much is added up in scratch."""
    plain = [t.dtype for t in tensors if not isinstance(t, Quantized)]
    while len(tensors) > most:
        partial = torch.empty(like.shape, dtype=reference.accumulator([like.dtype, *plain]), device=like.device)
        _native(None, None, tensors[:most], weights[:most], partial, False, _empty_like, Quantized)
        tensors, weights = [partial, *tensors[most:]], [1.0, *weights[most:]]
    return tensors, weights


def _launch(chosen: str, residual, gate, tensors: list, weights: list[float], to: Tensor) -> bool:
    """Fills ``to`` from contiguous tensors; False, and nothing done, where the kernel does not take these."""
    if chosen == "native":
        if to.is_cuda:
            tensors, weights = _few(tensors, weights, to, backend._native.most_columns)
        return _native(residual, gate, tensors, weights, to, False, _empty_like, Quantized) is not None
    from ..triton_kernels import gated_combination as kernel

    return kernel.launch(residual, gate, tensors, weights, to)
