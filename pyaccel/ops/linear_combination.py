"""``linear_combination``: several outputs from several inputs in one pass over memory, Y = C·R.

The arithmetic is in csrc/linear_combination.h, the semantics in reference.py. This file holds the contract and the
order of tests that keeps every route right (the first that applies is taken; all but the last make tensors of noise):

1. forward-mode differentiation  -> the formula (through any registered operation the tangent would be a silent zero);
2. torch.compile                 -> the registered operation;
3. torch.func and dispatch modes -> the formula, or the registered operation for fake tensors;
4. gradients required            -> autograd, forward and backward by the kernels;
5. layouts that the kernel takes -> the kernel; otherwise copies that it takes, or the formula.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import backend, native, reference
from .backend import CODES, plain
from .checks import check, check_counters, check_dtype, check_out, check_seeds, output_dtypes, refuse_overlap
from .inner_products import inner_products
from .layout import dense, memory_format_of
from .noise import Noise, check_noise, normal

_native = backend._native
_empty_like = torch.empty_like
_forward_level, _peek, _modes = backend.forward_level, backend.peek_functorch, backend.count_modes
_is_compiling = torch.compiler.is_compiling
_grad_enabled = torch.is_grad_enabled
_increment_version = torch.autograd.graph.increment_version
_combine = None if _native is None else _native.combine


def linear_combination(
    tensors: Sequence[Tensor],
    coefficients: Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]] | Tensor,
    *,
    out: Sequence[Tensor] | None = None,
    dtype: torch.dtype | Sequence[torch.dtype] | None = None,
    noise: Noise | None = None,
) -> list[Tensor]:
    """The n combinations Σ_j coefficients[i][j]·tensors[j], plus noise if asked for, as a list of n tensors.

    Args:
        tensors: k ≥ 1 tensors of one shape, or of shapes that broadcast to one; float32, bfloat16, float16 or float64,
            each its own; on one device. Any strides.
        coefficients: [n, k], shared by all samples, or [B, n, k], one matrix for each sample of the first dimension.
            Numbers, which must be finite, or a tensor, which may require gradients and is not checked.
        out: n tensors to write into, each with its own dtype. One may be exactly one of the inputs; overlap in part
            is refused.
        dtype: dtype of the new outputs, one for all or a list of n; by default the promoted dtype of the inputs.
        noise: seeds, one for each sample of the first dimension, and s streams. The coefficients then have k + s
            columns, of which the last multiply the unit Gaussian noise ξ of the streams, as :func:`normal` gives it;
            it is drawn inside of the kernel and never stored.

    Accumulation is in float32, in float64 where any operand is float64. Gradients flow to tensors and to a
    coefficient tensor; ``torch.func``, forward mode, ``vmap`` and ``torch.compile(fullgraph=True)`` work.

    Raises:
        ValueError: shapes, counts, layouts or values that do not fit, named with what was expected.
        TypeError: anything but real floating-point tensors.
    """
    if not _is_compiling() and _native_first and plain() and dtype is None:
        # Dense tensors of one shape, lists of numbers, no gradients: the common case, or None if it is another.
        result = _combine(tensors, coefficients, out, _grad_enabled(), _empty_like, noise)
        if result is not None:
            if out is not None:
                _increment_version(result)
            return result
    return _general(tensors, coefficients, out, dtype, noise)


def _never(tensors, out, grad, seeds) -> bool:
    return False


class Prepared:
    """A combination checked once and called many times, as the executor of a Plan does; see :func:`prepare`."""

    __slots__ = ("_coefficients", "_run", "in_dtypes", "out_dtypes", "streams")

    def __init__(
        self,
        coefficients: list[list[float]],
        in_dtypes: list[torch.dtype],
        out_dtypes: list[torch.dtype],
        streams: list[int],
    ):
        self._coefficients = coefficients
        self.in_dtypes, self.out_dtypes, self.streams = list(in_dtypes), list(out_dtypes), list(streams)
        self._run = _never
        if _native_first and len(out_dtypes) <= backend.MOST_OUTPUTS_IN_PLACE:
            codes = [CODES[d] for d in in_dtypes], [CODES[d] for d in out_dtypes]
            self._run = _native.PreparedCombination(native.flatten(coefficients), *codes, self.streams).run

    def __reduce__(self):
        return prepare, (self._coefficients, self.in_dtypes, self.out_dtypes, self.streams)

    def __call__(
        self, tensors: Sequence[Tensor], out: Sequence[Tensor], seeds: Sequence[int] | None = None
    ) -> Sequence[Tensor]:
        """Writes the combinations of ``tensors`` into ``out`` and returns ``out``.

        Dense tensors of one shape and of the prepared dtypes, on the CPU or a GPU, go straight to the kernel, anything
        else through :func:`linear_combination`, whose contract holds. ``seeds``, one for each sample, are needed where
        streams of noise were prepared, and not looked at where none were.
        """
        if (  # what plain() asks, without the price of a call
            not _is_compiling()
            and _forward_level._current_level < 0
            and _peek() is None
            and not _modes()
            and self._run(tensors, out, _grad_enabled(), seeds)
        ):
            return out
        if self.streams and seeds is None:
            raise ValueError(f"prepared combination: {len(self.streams)} streams of noise were prepared; give seeds=")
        noise = Noise(seeds, self.streams) if self.streams else None
        linear_combination(tensors, self._coefficients, out=out, noise=noise)
        return out


def prepare(
    coefficients: Sequence[Sequence[float]],
    in_dtypes: Sequence[torch.dtype],
    out_dtypes: Sequence[torch.dtype],
    streams: Sequence[int] = (),
) -> Prepared:
    """A combination with coefficients [n, k + s], k input and n output dtypes and s streams of noise fixed.

    Call it with (tensors, out), or with (tensors, out, seeds) where there are streams. The call costs about a third of
    :func:`linear_combination`. It does not tell autograd that ``out`` has changed: do not hand it an ``out`` that a
    graph has saved.
    """
    rows = [[float(c) for c in row] for row in coefficients]
    streams = check_counters(streams, "prepare: streams")
    columns = len(in_dtypes) + len(streams)
    if not rows or any(len(row) != columns for row in rows) or len(rows) != len(out_dtypes) or not in_dtypes:
        noise = f" + {len(streams)} streams" if streams else ""
        raise ValueError(
            f"prepare: coefficients must be [n={len(out_dtypes)}][k={len(in_dtypes)}{noise}] with n, k >= 1, "
            f"got rows of lengths {[len(row) for row in rows]}"
        )
    for d in (*in_dtypes, *out_dtypes):
        check_dtype(d, "prepare")
    return Prepared(rows, list(in_dtypes), list(out_dtypes), streams)


# ---- the general path -----------------------------------------------------------------------------------------------


def _general(tensors, coefficients, out, dtype, noise) -> list[Tensor]:
    noise = noise if noise is None else check_noise(noise)
    tensors, coefficients, n, shape = check(tensors, coefficients, 0 if noise is None else len(noise.streams))
    if noise is not None:
        check_seeds(noise.seeds, shape, "linear_combination")
    out = check_out(out, n, shape, tensors[0].device)
    dtypes = [t.dtype for t in out] if out is not None else output_dtypes(dtype, tensors, n)
    differentiable = [*tensors, coefficients] if isinstance(coefficients, Tensor) else tensors
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in differentiable)
    if out is not None and torch.is_grad_enabled() and (needs_grad or any(t.requires_grad for t in out)):
        raise ValueError("linear_combination: out= does not support gradients; leave it away or use torch.no_grad()")

    compiling = torch.compiler.is_compiling()
    changed = not compiling and (not backend.private_names_work() or backend.transformed())
    if noise is not None and (compiling or changed or needs_grad or backend.forward_mode()):
        device = tensors[0].device
        tensors = [*tensors, *(normal(shape, noise.seeds, stream, device=device) for stream in noise.streams)]
    if backend.forward_mode():
        results = reference.linear_combination(tensors, coefficients, dtypes)
    elif compiling:
        c = coefficients if isinstance(coefficients, Tensor) else torch.tensor(coefficients, dtype=torch.float64)
        results = _operator([t.expand(shape) for t in tensors], c, [CODES[d] for d in dtypes])
    elif changed:
        results = reference.linear_combination(tensors, coefficients, dtypes)
    elif needs_grad:
        expanded = [t.expand(shape) for t in tensors]
        results = list(_Differentiable.apply(coefficients, dtypes, *expanded))
    else:
        return _run(tensors, coefficients, dtypes, shape, out, noise)
    if out is None:
        return results
    refuse_overlap(tensors, out)
    for o, result in zip(out, results, strict=True):
        o.copy_(result)
    return out


def _run(tensors, coefficients, dtypes, shape, out=None, noise=None) -> list[Tensor]:
    """The values, without gradients, by the backend that serves these tensors; they may be expanded or strided."""
    chosen = backend.choose(tensors[0].device)
    per_sample = _is_per_sample(coefficients)
    # The position of a normal is its logical one: noise wants memory in that order.
    memory_format = memory_format_of(tensors, shape) if noise is None else torch.contiguous_format
    if out is not None:
        refuse_overlap(tensors, out)
    if chosen == "reference":
        if noise is not None:
            tensors = [*tensors, *(normal(shape, noise.seeds, s, device=tensors[0].device) for s in noise.streams)]
        results = reference.linear_combination(tensors, coefficients, dtypes)
        results = [r.contiguous(memory_format=memory_format) for r in results]
    else:
        inputs = [dense(t.expand(shape), memory_format) for t in tensors]
        direct = out is not None and all(o.is_contiguous(memory_format=memory_format) and not o.is_neg() for o in out)
        if direct and len(out) > backend.MOST_OUTPUTS_IN_PLACE:
            # In groups, a later one would read what an earlier one wrote.
            held = {o.data_ptr() for o in out}
            inputs = [t.clone() if t.data_ptr() in held else t for t in inputs]
        if direct:
            results = out
            torch.autograd.graph.increment_version(out)
        else:
            results = [torch.empty_like(inputs[0], dtype=d, memory_format=memory_format) for d in dtypes]
        batch = shape[0] if per_sample else 1
        if inputs[0].numel():
            _launch(chosen, inputs, coefficients, results, batch, noise)
    if out is None:
        return results
    for o, result in zip(out, results, strict=True):
        if o is not result:
            o.copy_(result)
    return out


def _launch(chosen: str, dense, coefficients, results, batch: int, noise: Noise | None) -> None:
    """One launch of a kernel over dense tensors that all have the same layout; ``batch`` matrices of coefficients."""
    if chosen == "triton":
        from ..triton_kernels import linear_combination as kernel

        kernel.launch(dense, coefficients, results, batch, noise)
        return
    seeds, streams = noise if noise is not None else ((), ())
    native.combine(dense, coefficients, results, batch, seeds, streams)


def _is_per_sample(coefficients) -> bool:
    return coefficients.dim() == 3 if isinstance(coefficients, Tensor) else isinstance(coefficients[0][0], Sequence)


# ---- gradients and torch.compile ------------------------------------------------------------------------------------


def _backward(grads, tensors, coefficients, needs):
    """(gradients of the tensors, gradient of the coefficients), each None where not needed; differentiable itself."""
    tensor_grads = [None] * len(tensors)
    wanted = [j for j in range(len(tensors)) if needs[1 + j]]
    if wanted:
        if isinstance(coefficients, Tensor):
            transposed = coefficients.transpose(-1, -2)[..., wanted, :]
        elif _is_per_sample(coefficients):
            transposed = [[[row[j] for row in sample] for j in wanted] for sample in coefficients]
        else:
            transposed = [[row[j] for row in coefficients] for j in wanted]
        for j, g in zip(
            wanted, linear_combination(grads, transposed, dtype=[tensors[j].dtype for j in wanted]), strict=True
        ):
            tensor_grads[j] = g
    coefficient_grad = None
    if needs[0]:
        sums = inner_products(grads, tensors, per_sample=coefficients.dim() == 3)
        coefficient_grad = sums.to(device=coefficients.device, dtype=coefficients.dtype)
    return tensor_grads, coefficient_grad


class _Differentiable(torch.autograd.Function):
    """Forward by the kernel; the backward is a combination again, with the coefficients transposed."""

    @staticmethod
    def forward(ctx, coefficients, dtypes, *tensors):
        ctx.coefficients = None if isinstance(coefficients, Tensor) else coefficients
        ctx.learned = isinstance(coefficients, Tensor) and coefficients.requires_grad
        kept = [coefficients] if isinstance(coefficients, Tensor) else []
        # The tensors' values are needed for the gradient of the coefficients alone.
        ctx.like = [t.new_empty(0) for t in tensors]
        ctx.save_for_backward(*kept, *(tensors if ctx.learned else ()))
        return tuple(_run(list(tensors), coefficients, dtypes, tensors[0].shape))

    @staticmethod
    def backward(ctx, *grads):
        saved = list(ctx.saved_tensors)
        coefficients = saved.pop(0) if ctx.coefficients is None else ctx.coefficients
        needs = (ctx.needs_input_grad[0], *ctx.needs_input_grad[2:])
        tensor_grads, coefficient_grad = _backward(grads, saved or ctx.like, coefficients, needs)
        return coefficient_grad, None, *tensor_grads


_DTYPES = {code: dtype for dtype, code in CODES.items()}


@torch.library.custom_op("pyaccel::linear_combination", mutates_args=())
def _operator(tensors: Sequence[Tensor], coefficients: Tensor, dtypes: Sequence[int]) -> list[Tensor]:
    return _run(list(tensors), coefficients, [_DTYPES[d] for d in dtypes], tensors[0].shape)


@_operator.register_fake
def _(tensors, coefficients, dtypes):
    memory_format = memory_format_of(tensors, tensors[0].shape)
    return [torch.empty_like(tensors[0], dtype=_DTYPES[d], memory_format=memory_format) for d in dtypes]


def _setup_context(ctx, inputs, output):
    tensors, coefficients, _ = inputs
    ctx.save_for_backward(coefficients, *tensors)


def _operator_backward(ctx, grads):
    coefficients, *tensors = ctx.saved_tensors
    grads = list(grads)
    needs = (ctx.needs_input_grad[1], *ctx.needs_input_grad[0])
    tensor_grads, coefficient_grad = _backward(grads, tensors, coefficients, needs)
    return tensor_grads, coefficient_grad, None


_operator.register_autograd(_operator_backward, setup_context=_setup_context)


@_operator.register_vmap
def _(info, in_dims, tensors, coefficients, dtypes):
    def formula(tensors, coefficients):
        return reference.linear_combination(tensors, coefficients, [_DTYPES[d] for d in dtypes])

    results = torch.func.vmap(formula, in_dims=in_dims[:2])(tensors, coefficients)
    return results, [0] * len(results)


_native_first = backend.native_first()
