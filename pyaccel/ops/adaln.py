"""``adaln_modulate`` and ``gated_residual_adaln``: what stands between the branches of a diffusion transformer's block.

The arithmetic is in csrc/adaln.h, the semantics in reference_norms.py. Dense tensors without gradients go straight to
the native kernel; the other routes are in routes.py, the last of them the kernel of the backend, through copies where
its layout wants one. On a GPU the backward and the tangent are Triton's, beside the native kernel of the values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend, reference_norms
from .epilogues import check_tensor
from .layout import dense, unexpanded
from .routes import check_eps, each, routed, takes_backward_kernel, tangents_like

_empty_like = torch.empty_like
_is_compiling = torch.compiler.is_compiling
_grad_enabled = torch.is_grad_enabled
_plain = backend.plain
_native_first = backend.native_first()
_native = backend._native.adaln if backend._native is not None else None

NORMS = ("layer", "rms")
NAMES = ("x", "gate", "branch", "scale", "shift", "weight", "bias")


def adaln_modulate(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    norm: str = "layer",
    eps: float = 1e-6,
) -> Tensor:
    """norm(x)·(1 + scale) + shift (adaLN, Peebles and Xie 2023, section 3.2), in one pass over memory.

    Args:
        x: [..., D], any strides; float32, bfloat16, float16 or float64.
        scale, shift: [D], [B, D] for the samples of x's first dimension, or a shape of as many dimensions as x that
            broadcasts to it, such as [B, 1, D] or [B, L, D]; None for 0. Each operand has a dtype of its own.
        weight, bias: [D], of the norm; None for 1 and for 0.
        norm: "layer", (x − mean)/√(var + eps), or "rms", x/√(mean(x²) + eps), over the last dimension; both have
            ``weight`` and ``bias``.
        eps: a number, not below 0.

    Returns a tensor of x's shape and dtype. Arithmetic is in float32, in float64 where any operand is float64, and is
    rounded once. Gradients flow to all tensors, twice too; ``torch.func``, forward mode, ``vmap`` and
    ``torch.compile(fullgraph=True)`` work.

    Raises:
        ValueError: shapes or devices that do not fit, another norm, a bad eps.
        TypeError: anything but real floating-point tensors and numbers.
    """
    if not _is_compiling() and _native_first and _plain() and norm in NORMS:
        # Dense tensors of shapes that fit, no gradients: the common case, or None if it is another.
        y = _native(x, None, None, scale, shift, weight, bias, norm == "rms", eps, _grad_enabled(), _empty_like)
        if y is not None:
            return y
    return _general("adaln_modulate", (x, None, None, scale, shift, weight, bias), norm, eps)[0]


def gated_residual_adaln(
    residual: Tensor,
    gate: Tensor | None,
    branch: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    norm: str = "layer",
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """The end of one branch of a transformer block and the beginning of the next one, in one pass over memory.

    r = residual + gate ⊙ branch, and y = norm(r)·(1 + scale) + shift as in :func:`adaln_modulate`.

    Args:
        residual, branch: [..., D] of one shape, any strides.
        gate: shaped like ``scale``; None for 1.
        scale, shift, weight, bias, norm, eps: those of :func:`adaln_modulate`.

    Returns (r, y), both of the residual's dtype. y is that of the rounded r, so that the two are what the operations
    give one after the other. Derivatives and errors are those of :func:`adaln_modulate`.
    """
    if not _is_compiling() and _native_first and _plain() and norm in NORMS and branch is not None:
        rms = norm == "rms"
        both = _native(residual, gate, branch, scale, shift, weight, bias, rms, eps, _grad_enabled(), _empty_like)
        if both is not None:
            return both
    check_tensor(branch, "gated_residual_adaln: branch")
    r, y = _general("gated_residual_adaln", (residual, gate, branch, scale, shift, weight, bias), norm, eps)
    return r, y


# ---- the general path -----------------------------------------------------------------------------------------------


def _general(name: str, operands: tuple, norm: str, eps: float) -> list[Tensor]:
    if norm not in NORMS:
        raise ValueError(f"{name}: norm is {norm!r}; expected one of {', '.join(map(repr, NORMS))}")
    eps = check_eps(name, eps)
    operands, rms = _checked(name, operands), norm == "rms"
    return routed(
        operands,
        formula=lambda: reference_norms.adaln(*operands, rms, eps),
        differentiable=lambda: list(_Differentiable.apply(rms, eps, *operands)),
        operator=lambda: _operator(*operands, rms, eps),
        run=lambda: _run(operands, rms, eps),
        has_tangent=lambda: _triton(operands[0]) is not None,
    )


def _checked(name: str, operands: tuple) -> tuple:
    """The operands with as many dimensions as x, but for weight and bias; an error names the culprit."""
    x, gate, branch, scale, shift, weight, bias = operands
    names = NAMES if branch is None else ("residual", *NAMES[1:])
    for what, t in zip(names, operands, strict=True):
        if t is None and t is not x:
            continue
        check_tensor(t, f"{name}: {what}")
        if t.device != x.device:
            raise ValueError(f"{name}: {what} is on {t.device}, {names[0]} on {x.device}")
    if x.dim() < 1:
        raise ValueError(f"{name}: {names[0]} must have at least one dimension, over which the norm goes")
    shape = tuple(x.shape)
    if branch is not None and branch.shape != x.shape:
        raise ValueError(f"{name}: branch is {tuple(branch.shape)}, residual {shape}; expected the same")
    for what, t in (("weight", weight), ("bias", bias)):
        if t is not None and tuple(t.shape) != shape[-1:]:
            raise ValueError(f"{name}: {what} is {tuple(t.shape)}; expected {shape[-1:]}, the width of {names[0]}")
    spread = [_spread(name, what, t, shape) for what, t in (("gate", gate), ("scale", scale), ("shift", shift))]
    return x, spread[0], branch, *spread[1:], weight, bias


def _spread(name: str, what: str, t: Tensor | None, shape: tuple) -> Tensor | None:
    if t is None:
        return None
    if t.dim() == 2 and len(shape) > 2 and tuple(t.shape) == (shape[0], shape[-1]):
        return t.reshape(shape[0], *[1] * (len(shape) - 2), shape[-1])
    aligned = t.dim() == len(shape) or (t.dim() == 1 and t.shape[0] == shape[-1])
    if aligned and all(a in (1, b) for a, b in zip(reversed(t.shape), reversed(shape), strict=False)):
        return t.reshape(*[1] * (len(shape) - t.dim()), *t.shape)
    raise ValueError(
        f"{name}: {what} is {tuple(t.shape)}, which does not go with {shape}; expected ({shape[-1]},), "
        f"({shape[0]}, {shape[-1]}) or {len(shape)} dimensions that broadcast to it"
    )


def _run(operands: tuple, rms: bool, eps: float) -> list[Tensor]:
    """The values by the backend that serves these tensors, of any strides."""
    x = operands[0]
    chosen = backend.choose(x.device)
    if chosen != "reference" and x.numel():
        ordered, results = each(lambda t: _ordered(t, x.shape), operands), None
        if chosen == "native":
            results = _native(*ordered, rms, eps, False, _empty_like)
        if results is None and (kernel := _triton(x)) is not None:
            results = kernel.forward(*ordered, rms, eps)
        if results is not None:
            return [results] if isinstance(results, Tensor) else list(results)
    return [t.contiguous() for t in reference_norms.adaln(*operands, rms, eps)]


def _ordered(t: Tensor, shape) -> Tensor:
    """``t`` as a kernel reads it: contiguous, and of its own size where rows share its entries in runs."""
    t = t.detach()
    if t.dim() == len(shape):
        t = unexpanded(t)
        if not shares_rows(t.shape, shape):
            t = t.expand(shape)
    return dense(t, torch.contiguous_format)


def shares_rows(small, shape) -> bool:
    """Whether a tensor that broadcasts to ``shape`` has entries of whole rows, in runs that are shared so often."""
    if small[-1] != shape[-1]:
        return False
    d = len(shape) - 1
    while d >= 0 and small[d] == shape[d]:
        d -= 1
    while d >= 0 and small[d] == 1:
        d -= 1
    return tuple(small[: d + 1]) == tuple(shape[: d + 1])


# ---- gradients, tangents and torch.compile --------------------------------------------------------------------------


def _backward(grads, normed: Tensor, others: tuple, rms: bool, eps: float) -> list[Tensor | None]:
    """The gradients of all operands; ``normed`` is x, or the sum with the branch. Differentiable where it has to be."""
    kernel = _triton(normed) if takes_backward_kernel() else None
    if kernel is None:
        return reference_norms.adaln_backward(grads, normed, *others, rms, eps)
    *first, last = grads
    given = [*first, torch.zeros_like(normed) if last is None else last]
    given, ordered = (each(lambda t: _ordered(t, normed.shape), some) for some in (given, (normed, *others)))
    found = kernel.backward(given, *ordered, rms, eps)
    # Where an entry was copied for each row, its gradient is added up again.
    return [None if f is None else f.sum_to_size(t.shape) for f, t in zip(found, (normed, *others), strict=True)]


def _triton(x: Tensor):
    """The Triton kernels, where they serve tensors like ``x``, otherwise None."""
    if not backend.triton_serves(x.device):
        return None
    from ..triton_kernels import adaln as kernel

    return kernel if kernel.served(x) else None


class _Differentiable(torch.autograd.Function):
    """Forward by the kernel; of what is as large as x it keeps what is normed, and the branch where it has a gate."""

    @staticmethod
    def forward(rms, eps, *operands):
        return tuple(_run(operands, rms, eps))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.rms, ctx.eps, x, *others = inputs
        saved = x if len(output) == 1 else output[0], *others
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def jvp(ctx, _rms, _eps, *tangents):
        operands, tangents = each(backend.unwrapped, ctx.saved_tensors), each(backend.unwrapped, tangents)
        with backend.untransformed():
            given = each(lambda t: _ordered(t, operands[0].shape), operands)
            changes = tangents_like(given, tangents)
            return tuple(_triton(operands[0]).tangent(changes, *given, ctx.rms, ctx.eps))

    @staticmethod
    def backward(ctx, *grads):
        normed, *others = ctx.saved_tensors
        return None, None, *_backward(grads, normed, others, ctx.rms, ctx.eps)


@torch.library.custom_op("pyaccel::adaln", mutates_args=())
def _operator(
    x: Tensor,
    gate: Tensor | None,
    branch: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    rms: bool,
    eps: float,
) -> list[Tensor]:
    return _run((x, gate, branch, scale, shift, weight, bias), rms, eps)


@_operator.register_fake
def _(x, gate, branch, scale, shift, weight, bias, rms, eps):
    return [x.new_empty(x.shape) for _ in range(1 if branch is None else 2)]


def _setup_context(ctx, inputs, output):
    x, *others, ctx.rms, ctx.eps = inputs
    ctx.save_for_backward(x if len(output) == 1 else output[0], *others)


def _operator_backward(ctx, grads):
    normed, *others = ctx.saved_tensors
    return *_backward(list(grads), normed, others, ctx.rms, ctx.eps), None, None


_operator.register_autograd(_operator_backward, setup_context=_setup_context)
