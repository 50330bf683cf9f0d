"""Attention and its tangent in plain PyTorch, a block of queries at a time: memory linear in the lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference

SCORES = 1 << 19
"""Scores held at once, three tensors of so many: they stay in the cache. Very long keys take more, by MOST_ROWS."""

FEWEST_ROWS, MOST_ROWS = 32, 512


def attention_jvp(
    primals: list[Tensor],
    tangents: list[Tensor | None],
    causal: bool,
    key_padding: Tensor | None,
    scale: float,
    out: Tensor,
    tangent: Tensor,
) -> None:
    """Fills ``out`` and ``tangent`` with what :func:`.reference.attention_jvp` says."""
    heads, length = out.shape[1:3]
    keys = primals[1].shape[2]
    rows = min(max(SCORES // max(keys, 1), FEWEST_ROWS), MOST_ROWS, max(length, 1))
    group = max(SCORES // max(rows * keys, 1), 1)
    wide = reference.accumulator([out.dtype])
    for b in range(len(out)):
        padding = None if key_padding is None else key_padding[b : b + 1]
        for h in range(0, heads, group):
            part = [None if t is None else t[b, h : h + group].to(wide) for t in (*primals, *tangents)]
            for i in range(0, length, rows):
                block = range(i, min(i + rows, length))
                seen = min(block.stop, keys) if causal else keys
                mask = reference.excluded(causal, padding, block, seen, out.device)
                results = _block(*part, block, seen, None if mask is None else mask.reshape(mask.shape[-2:]), scale)
                for whole, result in zip((out, tangent), results, strict=True):
                    whole[b, h : h + group, i : block.stop] = result


def _block(q, k, v, dq, dk, dv, block: range, seen: int, mask, scale: float) -> tuple[Tensor, Tensor]:
    """Output and tangent of the queries ``block``, over the first keys; all [heads, rows, D]."""
    q = q[:, block.start : block.stop] * scale
    k, v, dk, dv = (None if t is None else t[:, :seen] for t in (k, v, dk, dv))
    p = reference.weights(q @ k.mT, mask)
    out = p @ v
    tangent = torch.zeros_like(out) if dv is None else p @ dv
    ds = None if dk is None else q @ dk.mT
    if dq is not None:
        dq = dq[:, block.start : block.stop] * scale
        ds = dq @ k.mT if ds is None else ds.baddbmm_(dq, k.mT)
    if ds is not None:
        p_ds = ds.mul_(p)
        tangent.baddbmm_(p_ds, v).addcmul_(p_ds.sum(-1, keepdim=True), out, value=-1)
    return out, tangent
