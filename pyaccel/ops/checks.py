"""The checks of an operation's arguments: what is wrong is named, with what was given and what was expected."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real

import torch
from torch import Tensor

from . import backend
from .backend import CODES

MOST_COUNTER = 2**63 - 1
"""The greatest seed, and the greatest number of a stream."""


def check_dtype(dtype: torch.dtype, what: str) -> None:
    """TypeError, naming ``what``, unless the kernels know ``dtype``."""
    if dtype not in CODES:
        raise TypeError(f"{what} has dtype {dtype}; expected one of {', '.join(map(str, CODES))}")


def check(tensors, coefficients, streams: int = 0):
    """(tensors as a list, coefficients as nested lists or a tensor, n, common shape); an error names the culprit.

    The coefficients have ``streams`` columns more than there are tensors, for noise.
    """
    if isinstance(tensors, Tensor):
        raise TypeError("linear_combination: tensors must be a list of tensors, got one tensor; write [tensor]")
    tensors = list(tensors)
    if not tensors:
        raise ValueError("linear_combination: no tensors were given; at least one is needed")
    for j, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            raise TypeError(f"linear_combination: tensors[{j}] is a {type(t).__name__}, not a tensor")
        check_dtype(t.dtype, f"linear_combination: tensors[{j}] of shape {tuple(t.shape)}")
        if t.layout is not torch.strided:
            raise TypeError(f"linear_combination: tensors[{j}] has layout {t.layout}; expected torch.strided")
        if t.device != tensors[0].device:
            raise ValueError(f"linear_combination: tensors[{j}] is on {t.device}, tensors[0] on {tensors[0].device}")
    try:
        shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    except RuntimeError:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise ValueError(f"linear_combination: the tensors' shapes do not fit one another: {shapes}") from None

    if isinstance(coefficients, Tensor):
        if not coefficients.is_floating_point():
            raise TypeError(
                f"linear_combination: coefficients have dtype {coefficients.dtype}; expected floating point"
            )
        sizes = tuple(coefficients.shape)
    else:
        if hasattr(coefficients, "tolist"):
            coefficients = coefficients.tolist()
        coefficients, sizes = _nested(coefficients)
    k, n = len(tensors) + streams, sizes[-2] if len(sizes) in (2, 3) else 0
    if len(sizes) not in (2, 3) or sizes[-1] != k or n == 0:
        noise = f" and {streams} streams of noise" if streams else ""
        raise ValueError(
            f"linear_combination: coefficients must be [n, {k}] or [B, n, {k}] for {len(tensors)} tensors{noise}, "
            f"got shape {list(sizes)}"
        )
    if len(sizes) == 3 and (not shape or shape[0] != sizes[0]):
        raise ValueError(
            f"linear_combination: coefficients are for {sizes[0]} samples, the tensors have shape {tuple(shape)}"
        )
    return tensors, coefficients, n, shape


def check_counters(values, what: str) -> list[int]:
    """``values``, seeds or streams, as a list of Python's integers in [0, 2^63); an error names ``what``."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{what} must be a list of integers, got {values!r}")
    values = list(values)
    for i, value in enumerate(values):
        if not isinstance(value, int):
            try:
                values[i] = value = operator.index(value)
            except TypeError:
                raise TypeError(f"{what}[{i}] is {value!r}; expected an integer") from None
        if value < 0 or value > MOST_COUNTER:
            raise ValueError(f"{what}[{i}] is {value}; expected an integer in [0, 2^63)")
    return values


def check_seeds(seeds: list[int], shape, what: str) -> None:
    """ValueError unless there is one seed for each sample, the first dimension of ``shape``."""
    if len(shape) == 0:
        raise ValueError(f"{what}: noise wants tensors of at least one dimension, whose first is that of the samples")
    if len(seeds) != shape[0]:
        raise ValueError(f"{what}: {len(seeds)} seeds were given for {shape[0]} samples, of shape {tuple(shape)}")


def _nested(coefficients) -> tuple[list, tuple[int, ...]]:
    """Nested sequences of numbers as nested lists of floats, and their sizes; errors for ragged or non-finite ones."""
    if isinstance(coefficients, Real):
        value = float(coefficients)
        if not math.isfinite(value):
            raise ValueError(f"linear_combination: a coefficient is {value}; coefficients must be finite")
        return value, ()
    try:
        if isinstance(coefficients, (str, Tensor)):
            raise TypeError
        rows = [_nested(row) for row in coefficients]
    except TypeError:
        raise TypeError(
            f"linear_combination: coefficients must be nested lists of numbers or a tensor, found {coefficients!r}"
        ) from None
    sizes = {size for _, size in rows}
    if len(sizes) > 1:
        raise ValueError(f"linear_combination: rows of coefficients differ in length: {sorted(sizes)}")
    return [row for row, _ in rows], (len(rows), *(sizes.pop() if sizes else ()))


def output_dtypes(dtype, tensors, n: int) -> list[torch.dtype]:
    """The dtypes of n new outputs: ``dtype``, one for all or a list; without it the promoted dtype of the inputs."""
    if dtype is None:
        promoted = tensors[0].dtype
        for t in tensors[1:]:
            promoted = torch.promote_types(promoted, t.dtype)
        return [promoted] * n
    dtypes = [dtype] * n if isinstance(dtype, torch.dtype) else list(dtype)
    if len(dtypes) != n:
        raise ValueError(f"linear_combination: {len(dtypes)} dtypes were given for {n} outputs")
    for d in dtypes:
        check_dtype(d, "linear_combination: an output")
    return dtypes


def check_out(out, n: int, shape, device) -> list[Tensor] | None:
    """``out`` as a list of n tensors of ``shape`` on ``device`` that can be written, or None; errors name it."""
    if out is None:
        return None
    out = [out] if isinstance(out, Tensor) else list(out)
    if len(out) != n:
        raise ValueError(f"linear_combination: out has {len(out)} tensors for {n} rows of coefficients")
    for i, o in enumerate(out):
        if not isinstance(o, Tensor):
            raise TypeError(f"linear_combination: out[{i}] is a {type(o).__name__}, not a tensor")
        check_dtype(o.dtype, f"linear_combination: out[{i}] of shape {tuple(o.shape)}")
        if o.layout is not torch.strided:
            raise TypeError(f"linear_combination: out[{i}] has layout {o.layout}; expected torch.strided")
        if o.shape != shape or o.device != device:
            raise ValueError(
                f"linear_combination: out[{i}] has shape {tuple(o.shape)} on {o.device}, "
                f"expected {tuple(shape)} on {device}"
            )
        if any(size > 1 and stride == 0 for size, stride in zip(o.shape, o.stride(), strict=True)):
            raise ValueError(f"linear_combination: out[{i}] is an expanded tensor; several elements share memory")
    return out


def refuse_overlap(tensors, out) -> None:
    """ValueError where an output shares memory with another output, or with an input that it is not exactly."""
    if torch.compiler.is_compiling() or backend.transformed():
        return
    for i, o in enumerate(out):
        others = [(f"tensors[{j}]", t, True) for j, t in enumerate(tensors)]
        others += [(f"out[{j}]", t, False) for j, t in enumerate(out[:i])]
        for name, t, same_allowed in others:
            if share_in_part(o, t) if same_allowed else _share_memory(o, t):
                raise ValueError(
                    f"linear_combination: out[{i}] overlaps {name}{' in part' if same_allowed else ''}; "
                    "it may be exactly one of the inputs, or share no memory with any"
                )


def overlapping(written, read) -> tuple[str, str] | None:
    """Two names of tensors that share memory, the first of them ``written``; None if there are none.

    Both are lists of names and tensors. Any tensors but those of one list ``read`` are compared.
    """
    every = [(t.data_ptr(), name, t, i < len(written)) for i, (name, t) in enumerate([*written, *read])
             if t.numel() and t.device.type != "meta"]  # fmt: skip
    open_ones: list = []  # those that reach as far as the tensor looked at, which begins later
    for begin, name, t, is_written in sorted(every, key=lambda entry: entry[0]):
        open_ones = [entry for entry in open_ones if entry[0] + _span(entry[2]) > begin]
        for _, other, u, other_written in open_ones:
            if (is_written or other_written) and t.device == u.device and _share_memory(t, u):
                return (name, other) if is_written else (other, name)
        open_ones.append((begin, name, t, is_written))
    return None


def share_in_part(a: Tensor, b: Tensor) -> bool:
    """Whether any byte belongs to both, and they are not exactly the same."""
    same = a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
    return not same and _share_memory(a, b)


def _share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether any byte belongs to both."""
    if not a.numel() or not b.numel() or a.device.type == "meta":
        return False
    begins = [t.data_ptr() for t in (a, b)]
    ends = [begin + _span(t) for begin, t in zip(begins, (a, b), strict=True)]
    if begins[0] >= ends[1] or begins[1] >= ends[0]:
        return False
    if a.is_contiguous() and b.is_contiguous():
        return True
    # Interleaved views may share a range and no byte: mark the bytes of one and look at them through the other.
    low = min(begins)
    marks = torch.zeros(max(ends) - low, dtype=torch.bool)
    _bytes(marks, a, begins[0] - low).fill_(True)
    return bool(_bytes(marks, b, begins[1] - low).any())


def _span(t: Tensor) -> int:
    """Bytes from the first of a non-empty tensor to the end of the last."""
    return (1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))) * t.element_size()


def _bytes(marks: Tensor, t: Tensor, offset: int) -> Tensor:
    """The bytes of ``marks``, one element each, that lie where those of ``t`` do."""
    strides = [stride * t.element_size() for stride in t.stride()]
    return marks.as_strided((*t.shape, t.element_size()), (*strides, 1), offset)
