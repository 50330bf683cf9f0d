"""``attention_jvp``: attention and its tangent in one pass; and ``attention``, which takes it in forward mode.

The formulas are in triton_kernels/attention_jvp.py, the semantics in reference.py. A GPU takes the Triton kernel; a
CPU, and whatever the kernel does not take, attention_blocks.py. Both hold memory linear in the lengths.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from . import attention_blocks, backend, reference
from .epilogues import check_finite, check_tensor
from .layout import dense


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    key_padding: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale·q kᵀ) v: ``scaled_dot_product_attention`` that has a tangent, by :func:`attention_jvp`.

    Args:
        q: queries [B, H, L, D].
        k, v: keys and values [B, H, S, D], of the queries' dtype.
        causal: query i sees the keys j ≤ i alone.
        key_padding: [B, S], True where a key is padding, which no query sees; its values must be finite. A query that
            sees no key gets 0.
        scale: 1/√D by default.

    Returns [B, H, L, D] in their dtype. Without forward mode it is PyTorch's own function, with its kernels, gradients
    and rules for ``vmap`` and ``torch.compile`` (both masks together become one of B·L·S booleans). Under
    ``torch.func.jvp`` or ``forward_ad`` one pass gives output and tangent; the output has gradients, whose backward
    computes PyTorch's function again, the tangent has none: asking for them is an error. ``vmap`` and ``grad`` inside
    of forward mode are right too. A ``grad`` there, and forward mode inside of ``torch.compile``, take memory of size
    L·S.

    Raises ValueError for shapes or devices that do not fit, TypeError for anything but real tensors of one dtype.
    """
    q, k, v = _autocast(q, k, v)
    scale = _checked("attention", {"q": q, "k": k, "v": v}, key_padding, scale)
    causal = bool(causal)
    if not backend.forward_mode():
        return _primal(q, k, v, key_padding, causal, scale)
    if torch.compiler.is_compiling():
        return reference.attention(q, k, v, causal, key_padding, scale)
    primals, tangents = _unpacked((q, k, v))
    if any(t is not None for t in tangents):
        return forward_ad.make_dual(*_with_tangent(*primals, *tangents, key_padding, causal, scale))
    return _Attention.apply(q, k, v, key_padding, causal, scale)


def attention_jvp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tangents: Sequence[Tensor | None],
    *,
    causal: bool = False,
    key_padding: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention and its derivative along ``tangents``, in one pass over the keys and memory linear in L and S.

    Args:
        q, k, v, causal, key_padding, scale: as in :func:`attention`; float32, bfloat16, float16 or float64, any
            strides (what is strided in its last dimension is copied).
        tangents: (dq, dk, dv), each of the shape and dtype of its primal, or None for zero.

    Returns (output, tangent), both [B, H, L, D] and of the dtype of q, laid out in memory as [B, L, H, D], so that
    ``.transpose(1, 2).flatten(2)`` is a view. Sums are in float32 (float64 for float64), and only the results are
    rounded to the dtype; on a GPU products of float32 follow ``torch.get_float32_matmul_precision``: nearly float32's
    own for "highest", TF32 otherwise. Gradients of the output flow to q, k and v, through a backward that computes
    ``scaled_dot_product_attention`` again; gradients of the tangent are not supported and raise NotImplementedError.
    A second forward mode takes the formula, with memory of size L·S. ``vmap`` and
    ``torch.compile(fullgraph=True)`` work.

    The training of consistency and flow-map models needs it: sCM (Lu and Song 2024, arXiv:2410.11081, appendix on the
    JVP of flash attention), MeanFlow (Geng et al. 2025, arXiv:2505.13447), Align Your Flow (Sabour et al. 2025,
    arXiv:2506.14603).

    Raises ValueError for shapes or devices that do not fit, TypeError for anything but real tensors of one dtype.
    """
    primals = {"q": q, "k": k, "v": v}
    scale = _checked("attention_jvp", primals, key_padding, scale)
    tangents = [tangents] if isinstance(tangents, Tensor) else list(tangents)
    if len(tangents) != 3:
        raise ValueError(f"attention_jvp: {len(tangents)} tangents; expected three, (dq, dk, dv), None where zero")
    for (name, t), tangent in zip(primals.items(), tangents, strict=True):
        if tangent is not None:
            check_tensor(tangent, f"attention_jvp: the tangent of {name}")
            _check_like(tangent, t.shape, t, f"attention_jvp: the tangent of {name}", name)
    return _with_tangent(q, k, v, *tangents, key_padding, bool(causal), scale)


def _autocast(*tensors) -> tuple:
    """The tensors as autocast would hand them to PyTorch's function, which leaves float64 alone."""
    casts = [
        isinstance(t, Tensor) and t.dtype in (torch.float32, torch.bfloat16, torch.float16) and _casts(t.device)
        for t in tensors
    ]
    return tuple(
        t.to(torch.get_autocast_dtype(t.device.type)) if cast else t for t, cast in zip(tensors, casts, strict=True)
    )


def _checked(operation: str, tensors: dict[str, Tensor], key_padding, scale) -> float:
    """The scale; an error unless the tensors [B, H, L, D], [B, H, S, D] and [B, H, S, D] and the padding fit."""
    q, k, _ = tensors.values()
    for name, t in tensors.items():
        check_tensor(t, f"{operation}: {name}")
        if t.dim() != 4 or t.shape[-1] == 0:
            raise ValueError(f"{operation}: {name} has shape {tuple(t.shape)}; expected [B, H, length, D] with D ≥ 1")
    _check_like(k, (*q.shape[:2], k.shape[2], q.shape[3]), q, f"{operation}: k", "q, but for its length")
    _check_like(tensors["v"], k.shape, k, f"{operation}: v", "k")
    if key_padding is not None:
        if not isinstance(key_padding, Tensor) or key_padding.dtype != torch.bool:
            given = key_padding.dtype if isinstance(key_padding, Tensor) else type(key_padding).__name__
            raise TypeError(f"{operation}: key_padding is {given}; expected a tensor of torch.bool, True for padding")
        expected = (k.shape[0], k.shape[2])
        if key_padding.shape != expected or key_padding.device != q.device:
            raise ValueError(
                f"{operation}: key_padding is {tuple(key_padding.shape)} on {key_padding.device}, "
                f"expected {expected} on {q.device}"
            )
    return q.shape[-1] ** -0.5 if scale is None else check_finite(scale, f"{operation}: scale")


def _check_like(t: Tensor, shape, like: Tensor, what: str, other: str) -> None:
    if t.shape != shape or t.device != like.device:
        raise ValueError(
            f"{what} is {tuple(t.shape)} on {t.device}; expected {tuple(shape)} on {like.device}, as {other} is"
        )
    if t.dtype != like.dtype:
        raise TypeError(f"{what} has dtype {t.dtype}; expected {like.dtype}, as {other} has")


def _primal(q, k, v, key_padding, causal: bool, scale: float) -> Tensor:
    """PyTorch's own attention."""
    if key_padding is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    mask = ~reference.excluded(causal, key_padding, range(q.shape[2]), k.shape[2], q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _with_tangent(*arguments) -> tuple[Tensor, Tensor]:
    """Output and tangent for (q, k, v, dq, dk, dv, key_padding, causal, scale), in whatever surroundings."""
    compiling, forward = torch.compiler.is_compiling(), backend.forward_mode()
    if forward and (compiling or any(t is not None for t in _unpacked(arguments[:6])[1])):
        return _formula(*arguments)  # a second derivative
    if compiling:
        return _operator(*arguments)
    if not backend.private_names_work() or backend.transformed() or _require_grad(arguments[:6]):
        return _AttentionJvp.apply(*arguments)
    return _run(*arguments)


def _formula(q, k, v, dq, dk, dv, key_padding, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    return reference.attention_jvp((q, k, v), (dq, dk, dv), causal, key_padding, scale)


def _unpacked(tensors) -> tuple[list, list]:
    """Primals and tangents of the innermost forward mode, None where there is no tangent or it cannot be seen."""
    if not backend.tangents_visible():
        return list(tensors), [None] * len(tensors)
    pairs = [(None, None) if t is None else forward_ad.unpack_dual(t) for t in tensors]
    return [primal for primal, _ in pairs], [tangent for _, tangent in pairs]


def _require_grad(tensors) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _run(q, k, v, dq, dk, dv, key_padding, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """The values by the backend that serves these tensors."""
    primals, tangents = [_ordered(t) for t in (q, k, v)], [_ordered(t) for t in (dq, dk, dv)]
    if backend.forced() == "reference":
        results = _formula(*primals, *tangents, key_padding, causal, scale)
        return tuple(t.transpose(1, 2).contiguous().transpose(1, 2) for t in results)
    out, tangent = _new_results(q)
    if backend.triton_serves(q.device) and not backend.count_modes():
        from ..triton_kernels import attention_jvp as kernel

        if kernel.launch(primals, tangents, causal, key_padding, scale, out, tangent):
            return out, tangent
    with torch.autocast(q.device.type, enabled=False) if _casts(q.device) else contextlib.nullcontext():
        attention_blocks.attention_jvp(primals, tangents, causal, key_padding, scale, out, tangent)
    return out, tangent


def _casts(device: torch.device) -> bool:
    """Whether autocast is on."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _new_results(q: Tensor) -> tuple[Tensor, Tensor]:
    b, h, length, d = q.shape
    return tuple(q.new_empty(b, length, h, d).transpose(1, 2) for _ in range(2))


def _ordered(t: Tensor | None) -> Tensor | None:
    """``t`` as a kernel reads it: its memory holds its values, the last dimension one after the other."""
    if t is None:
        return None
    t = t.detach()
    held = t.stride(-1) == 1 and not t.is_neg() and not t._is_zerotensor()
    return t if held else dense(t, torch.contiguous_format)


# ---- derivatives, vmap and torch.compile ----------------------------------------------------------------------------


def _primal_gradients(g: Tensor, q, k, v, key_padding, causal: bool, scale: float) -> tuple[Tensor, ...]:
    """The gradients of q, k and v; inside forward mode by a formula that has tangents itself."""
    formula = backend.forward_mode()

    def primal(q, k, v):
        if formula:
            return reference.attention(q, k, v, causal, key_padding, scale)
        return _primal(q, k, v, key_padding, causal, scale)

    return torch.func.vjp(primal, q, k, v)[1](g)


def _folded(batch: int, dims, tensors) -> list[Tensor | None]:
    """Tensors with the dimension of vmap folded into the first of their own."""
    together = []
    for t, d in zip(tensors, dims, strict=True):
        if t is not None:
            t = t.unsqueeze(0).expand(batch, *t.shape) if d is None else t.movedim(d, 0)
            t = t.flatten(0, 1)
        together.append(t)
    return together


class _Attention(torch.autograd.Function):
    """Attention where forward mode is on but the tangents cannot be seen, from within a vmap or a grad."""

    @staticmethod
    def forward(q, k, v, key_padding, causal, scale):
        return _primal(q, k, v, key_padding, causal, scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.causal, ctx.scale = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, g):
        return *_primal_gradients(g, *ctx.saved_tensors, ctx.causal, ctx.scale), None, None, None

    @staticmethod
    def jvp(ctx, dq, dk, dv, *_):
        q, k, v, key_padding = ctx.saved_tensors
        return _with_tangent(q, k, v, dq, dk, dv, key_padding, ctx.causal, ctx.scale)[1]

    @staticmethod
    def vmap(info, dims, *arguments):
        *tensors, causal, scale = arguments
        q, k, v, key_padding = _folded(info.batch_size, dims[:4], tensors)
        out = attention(q, k, v, causal=causal, key_padding=key_padding, scale=scale)
        return out.unflatten(0, (info.batch_size, -1)), 0


def _setup(ctx, inputs, output):
    *tensors, key_padding, ctx.causal, ctx.scale = inputs
    ctx.save_for_backward(*tensors[:3], key_padding)
    ctx.set_materialize_grads(False)


def _backward(ctx, g, tangent_g):
    if tangent_g is not None:
        raise NotImplementedError(
            "attention_jvp: gradients of the tangent are not supported, those of the output alone; detach the tangent, "
            "as the losses of MeanFlow and sCM do"
        )
    gradients = (None,) * 3 if g is None else _primal_gradients(g, *ctx.saved_tensors, ctx.causal, ctx.scale)
    return *gradients, *[None] * 6


def _vmap(info, dims, *arguments):
    *tensors, causal, scale = arguments
    results = _with_tangent(*_folded(info.batch_size, dims[:7], tensors), causal, scale)
    return tuple(t.unflatten(0, (info.batch_size, -1)) for t in results), (0, 0)


class _AttentionJvp(torch.autograd.Function):
    """Output and tangent, of which the output has gradients."""

    @staticmethod
    def forward(*arguments):
        return _run(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _setup(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:7])

    backward = staticmethod(_backward)
    vmap = staticmethod(_vmap)

    @staticmethod
    def jvp(ctx, *directions):
        """The second derivative, by the formula."""
        *given, key_padding = ctx.saved_tensors
        places = [i for i, t in enumerate(given) if t is not None]
        along = [torch.zeros_like(given[i]) if directions[i] is None else directions[i] for i in places]

        def formula(*some):
            every = [None] * 6
            for i, t in zip(places, some, strict=True):
                every[i] = t
            return _formula(*every, key_padding, ctx.causal, ctx.scale)

        return torch.func.jvp(formula, tuple(given[i] for i in places), tuple(along))[1]


@torch.library.custom_op("pyaccel::attention_jvp", mutates_args=())
def _operator(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    key_padding: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return _run(q, k, v, dq, dk, dv, key_padding, causal, scale)


@_operator.register_fake
def _(q, *others):
    return _new_results(q)


_operator.register_autograd(_backward, setup_context=_setup)
_operator.register_vmap(_vmap)
