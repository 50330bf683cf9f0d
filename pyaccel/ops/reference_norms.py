"""The semantics of the norms in a transformer's block, with their derivatives, as :mod:`.reference` has the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .reference import accumulator


def adaln(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    branch: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    rms: bool,
    eps: float,
) -> list[torch.Tensor]:
    """[y], or with a branch [x + gate·branch, y]; y = norm(·)·(1 + scale) + shift of the last one before it.

    norm is LayerNorm, or RMSNorm, with ``weight`` and ``bias``. All but x broadcast to x, whose dtype the results have.
    """
    acc = _of_operands(x, gate, branch, scale, shift, weight, bias)
    results = []
    if branch is not None:
        product = branch.to(acc) if gate is None else gate.to(acc) * branch.to(acc)
        x = (x.to(acc) + product).to(x.dtype)
        results.append(x)
    y, _ = _normed(x.to(acc), rms, eps)
    if weight is not None:
        y = y * weight.to(acc)
    if bias is not None:
        y = y + bias.to(acc)
    if scale is not None:
        y = y * (1 + scale.to(acc))
    if shift is not None:
        y = y + shift.to(acc)
    return [*results, y.to(x.dtype)]


def adaln_backward(
    grads: Sequence[torch.Tensor | None],
    x: torch.Tensor,
    gate: torch.Tensor | None,
    branch: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    rms: bool,
    eps: float,
) -> list[torch.Tensor | None]:
    """The gradients of :func:`adaln` for x (or the residual), gate, branch, scale, shift, weight and bias.

    ``x`` is what was normed: with a branch, the first result. A gradient is None where there is no operand.
    """
    acc = _of_operands(x, gate, branch, scale, shift, weight, bias)
    g = (torch.zeros_like(x) if grads[-1] is None else grads[-1]).to(acc)
    h, inverse = _normed(x.to(acc), rms, eps)
    modulated = g if scale is None else g * (1 + scale.to(acc))
    gh = modulated if weight is None else modulated * weight.to(acc)
    dx = gh - h * (gh * h).mean(-1, keepdim=True)
    if not rms:
        dx = dx - gh.mean(-1, keepdim=True)
    dx = dx * inverse
    if branch is not None and grads[0] is not None:
        dx = dx + grads[0].to(acc)
    full = [dx, None, None, None, g, modulated * h, modulated]
    if branch is not None:
        full[1] = None if gate is None else dx * branch.to(acc)
        full[2] = dx if gate is None else dx * gate.to(acc)
    if scale is not None:
        normed = h if weight is None else h * weight.to(acc)
        full[3] = g * (normed if bias is None else normed + bias.to(acc))
    operands = (x, gate, branch, scale, shift, weight, bias)
    return [None if t is None else f.sum_to_size(t.shape).to(t.dtype) for f, t in zip(full, operands, strict=True)]


def norm_rope(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    eps: float,
    neighbours: bool,
) -> torch.Tensor:
    """RMSNorm of x [B, L, H, D], over H and D for a weight [H·D], else D; turned by cos and sin [B or 1, L, 1, D]."""
    acc = _of_operands(x, weight, cos, sin)
    y, _ = _heads_normed(x.to(acc), weight, eps)
    y = y if weight is None else y * _of_heads(weight, x).to(acc)
    if cos is not None:
        y = y * cos.to(acc) + _turned(y, neighbours) * sin.to(acc)
    return y.to(x.dtype)


def norm_rope_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    eps: float,
    neighbours: bool,
) -> list[torch.Tensor | None]:
    """The gradients of :func:`norm_rope` for x, weight, cos and sin; None where there is no operand."""
    acc = _of_operands(x, weight, cos, sin)
    g = grad.to(acc)
    h, inverse = _heads_normed(x.to(acc), weight, eps)
    weights = 1 if weight is None else _of_heads(weight, x).to(acc)
    full = [None, None, g * h * weights, g * _turned(h * weights, neighbours)]
    if cos is not None:
        g = g * cos.to(acc) - _turned(g * sin.to(acc), neighbours)
    gh = g * weights
    over = (-2, -1) if _across(x, weight) else -1
    full[0] = inverse * (gh - h * (gh * h).mean(over, keepdim=True))
    grads = [full[0].to(x.dtype), None, None, None]
    if weight is not None:
        small = _of_heads(weight, x)
        grads[1] = (g * h).sum_to_size(small.shape).reshape(weight.shape).to(weight.dtype)
    for i, t in ((2, cos), (3, sin)):
        if t is not None:
            grads[i] = full[i].sum_to_size(t.shape).to(t.dtype)
    return grads


def _across(x: torch.Tensor, weight: torch.Tensor | None) -> bool:
    return weight is not None and weight.shape[0] != x.shape[-1]


def _of_heads(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return weight.reshape(x.shape[-2:]) if _across(x, weight) else weight


def _heads_normed(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    inverse = torch.rsqrt(x.square().mean((-2, -1) if _across(x, weight) else -1, keepdim=True) + eps)
    return x * inverse, inverse


def _turned(y: torch.Tensor, neighbours: bool) -> torch.Tensor:
    """Each pair (a, b) as (−b, a); turned twice it is the opposite, so its transpose is its opposite too."""
    if neighbours:
        a, b = y.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([-b, a], dim=-1).flatten(-2)
    a, b = y.chunk(2, dim=-1)
    return torch.cat([-b, a], dim=-1)


def _of_operands(*tensors: torch.Tensor | None) -> torch.dtype:
    return accumulator([t.dtype for t in tensors if t is not None])


def _normed(x: torch.Tensor, rms: bool, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x without its mean (unless ``rms``) over its deviation, and one over that, of the last dimension."""
    centred = x if rms else x - x.mean(-1, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return centred * inverse, inverse
