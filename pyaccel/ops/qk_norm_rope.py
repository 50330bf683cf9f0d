"""``qk_norm_rope``: queries and keys normed and turned by the rotary embedding, each read and written once.

The arithmetic is in csrc/norm_rope.h, the semantics in reference_norms.py. Which route a call takes is decided as for
:mod:`.adaln`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend, reference_norms
from .epilogues import check_tensor
from .routes import check_eps, contiguous, each, routed, takes_backward_kernel, tangents_like

_empty_like = torch.empty_like
_is_compiling = torch.compiler.is_compiling
_grad_enabled = torch.is_grad_enabled
_plain = backend.plain
_native_first = backend.native_first()
_native = backend._native.norm_rope if backend._native is not None else None


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    *,
    eps: float = 1e-6,
    interleaved: bool = True,
) -> tuple[Tensor, Tensor]:
    """RMSNorm of queries and keys and the rotary embedding (Su et al. 2021), in one pass over memory for each.

    Args:
        q: [B, L, H, D], k: [B, L, H', D], D even, any strides; float32, bfloat16, float16 or float64.
        q_weight, k_weight: [D] for a norm over each head, as FLUX has it, or [H·D] for one over all heads, as Wan has
            it; None for 1, over each head.
        cos, sin: [L, D], [B, L, D] or [B or 1, L, 1, D], an angle's number for each element, as diffusers makes them;
            both None for no rotation.
        eps: added to the mean of the squares; not below 0.
        interleaved: whether the pairs that are turned are neighbours, as in FLUX and Wan, or lie in the two halves of
            a head.

    Returns (q, k) as contiguous tensors of their shapes and dtypes. With y = x/√(mean(x²) + eps)·weight, a pair (a, b)
    of y becomes (a·cos_a − b·sin_a, b·cos_b + a·sin_b). Arithmetic is in float32, in float64 where an operand is
    float64, and is rounded once. Gradients flow to all tensors, twice too; ``torch.func``, forward mode, ``vmap`` and
    ``torch.compile(fullgraph=True)`` work.

    Raises:
        ValueError: shapes or devices that do not fit, a bad eps, one of cos and sin alone.
        TypeError: anything but real floating-point tensors and numbers.
    """
    return (
        _norm_rope("q", q, q_weight, cos, sin, eps, bool(interleaved)),
        _norm_rope("k", k, k_weight, cos, sin, eps, bool(interleaved)),
    )


def _norm_rope(name: str, x, weight, cos, sin, eps, neighbours: bool) -> Tensor:
    if not _is_compiling() and _native_first and _plain():
        # Dense tensors of shapes that fit, no gradients: the common case, or None if it is another.
        y = _native(x, weight, cos, sin, eps, neighbours, _grad_enabled(), _empty_like)
        if y is not None:
            return y
    operands, eps = _checked(name, x, weight, cos, sin, eps)
    return routed(
        operands,
        formula=lambda: reference_norms.norm_rope(*operands, eps, neighbours),
        differentiable=lambda: _Differentiable.apply(eps, neighbours, *operands),
        operator=lambda: _operator(*operands, eps, neighbours),
        run=lambda: _run(operands, eps, neighbours),
        has_tangent=lambda: _triton(x) is not None,
    )


def _checked(name: str, x, weight, cos, sin, eps) -> tuple[tuple, float]:
    """(x, weight, cos, sin), the last two [B or 1, L, 1, D], and eps; an error names the culprit."""
    eps = check_eps("qk_norm_rope", eps)
    for what, t in ((name, x), (f"{name}_weight", weight), ("cos", cos), ("sin", sin)):
        if t is None and what != name:
            continue
        check_tensor(t, f"qk_norm_rope: {what}")
        if t.device != x.device:
            raise ValueError(f"qk_norm_rope: {what} is on {t.device}, {name} on {x.device}")
    shape = tuple(x.shape)
    if len(shape) != 4 or shape[3] % 2 or not shape[3]:
        raise ValueError(f"qk_norm_rope: {name} is {shape}; expected [B, L, H, D], D even and not 0")
    if weight is not None and tuple(weight.shape) not in ((shape[3],), (shape[2] * shape[3],)):
        raise ValueError(
            f"qk_norm_rope: {name}_weight is {tuple(weight.shape)}, {name} {shape}; expected ({shape[3]},) for a norm "
            f"over each head or ({shape[2] * shape[3]},) for one over all"
        )
    if (cos is None) != (sin is None):
        raise ValueError("qk_norm_rope: one of cos and sin is None; expected both or none")
    return (x, weight, _of_tokens("cos", cos, shape), _of_tokens("sin", sin, shape)), eps


def _of_tokens(what: str, t: Tensor | None, shape: tuple) -> Tensor | None:
    if t is None:
        return None
    given = tuple(t.shape)
    full = {2: (1, *given[:1], 1, *given[1:]), 3: (*given[:2], 1, *given[2:])}.get(len(given), given)
    expected = (full[0] if full[:1] in ((1,), shape[:1]) else shape[0], shape[1], 1, shape[3])
    if full != expected:
        raise ValueError(
            f"qk_norm_rope: {what} is {given}, which does not go with {shape}; expected ({shape[1]}, {shape[3]}), "
            f"{(shape[0], shape[1], shape[3])} or {(shape[0], shape[1], 1, shape[3])}"
        )
    return t.reshape(full)


def _run(operands: tuple, eps: float, neighbours: bool) -> Tensor:
    """The values by the backend that serves these tensors, of any strides."""
    ordered = each(contiguous, operands)
    if backend.choose(operands[0].device) == "native":
        y = _native(*ordered, eps, neighbours, False, _empty_like)
        if y is not None:
            return y
    kernel = _triton(operands[0])
    if kernel is not None:
        return kernel.forward(*ordered, eps, neighbours)
    return reference_norms.norm_rope(*operands, eps, neighbours).contiguous()


def _triton(x: Tensor):
    """The Triton kernels, where they serve tensors like ``x``, otherwise None."""
    if not backend.triton_serves(x.device):
        return None
    from ..triton_kernels import norm_rope as kernel

    return kernel if kernel.served(x) else None


# ---- gradients, tangents and torch.compile --------------------------------------------------------------------------


def _backward(grad: Tensor, operands: tuple, needs: tuple, eps: float, neighbours: bool) -> list[Tensor | None]:
    """The gradients of all operands. Differentiable where it has to be."""
    # What the angles are told goes by the formula: they are constants in every model.
    kernel = _triton(operands[0]) if takes_backward_kernel() and not any(needs[2:]) else None
    if kernel is None:
        return reference_norms.norm_rope_backward(grad, *operands, eps, neighbours)
    return [*kernel.backward(*each(contiguous, (grad, *operands)), eps, neighbours), None, None]


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(eps, neighbours, *operands):
        return _run(operands, eps, neighbours)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.eps, ctx.neighbours, *operands = inputs
        ctx.save_for_backward(*operands)
        ctx.save_for_forward(*operands)

    @staticmethod
    def jvp(ctx, _eps, _neighbours, *tangents):
        operands, tangents = each(backend.unwrapped, ctx.saved_tensors), each(backend.unwrapped, tangents)
        with backend.untransformed():
            ordered = each(contiguous, operands)
            changes = tangents_like(ordered, tangents)
            return _triton(operands[0]).tangent(changes, *ordered, ctx.eps, ctx.neighbours)

    @staticmethod
    def backward(ctx, grad):
        needs = ctx.needs_input_grad[2:]
        return None, None, *_backward(grad, ctx.saved_tensors, needs, ctx.eps, ctx.neighbours)


@torch.library.custom_op("pyaccel::norm_rope", mutates_args=())
def _operator(
    x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float, neighbours: bool
) -> Tensor:
    return _run((x, weight, cos, sin), eps, neighbours)


@_operator.register_fake
def _(x, weight, cos, sin, eps, neighbours):
    return x.new_empty(x.shape)


def _setup_context(ctx, inputs, output):
    *operands, ctx.eps, ctx.neighbours = inputs
    ctx.save_for_backward(*operands)


def _operator_backward(ctx, grad):
    return *_backward(grad, ctx.saved_tensors, ctx.needs_input_grad, ctx.eps, ctx.neighbours), None, None


_operator.register_autograd(_operator_backward, setup_context=_setup_context)
