"""The semantics of every operation in plain PyTorch: differentiable, on any device, in float64 when asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def accumulator(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """float64 where any operand is float64, otherwise float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def linear_combination(
    tensors: Sequence[torch.Tensor], coefficients: Sequence | torch.Tensor, dtypes: Sequence[torch.dtype]
) -> list[torch.Tensor]:
    """out_i = Σ_j c_ij·tensors_j with c [n, k] or [B, n, k], numbers or a tensor; out_i has ``dtypes[i]``."""
    acc = accumulator([t.dtype for t in tensors] + list(dtypes))
    wide = [t.to(acc) for t in tensors]
    rank = max(t.dim() for t in tensors)

    if isinstance(coefficients, torch.Tensor):
        c = coefficients.to(device=tensors[0].device, dtype=acc)
        per_sample = c.dim() == 3
    else:
        per_sample = isinstance(coefficients[0][0], Sequence)
        c = torch.tensor(coefficients, dtype=acc, device=tensors[0].device) if per_sample else coefficients

    def factor(i: int, j: int):
        if per_sample:
            return c[:, i, j].reshape(-1, *([1] * (rank - 1)))
        return c[i][j]

    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    results = []
    for i, dtype in enumerate(dtypes):
        total = wide[0] * factor(i, 0)
        for j in range(1, len(wide)):
            total = total + wide[j] * factor(i, j)
        results.append(total.expand(shape).to(dtype))
    return results


def threshold(x0: torch.Tensor, limit: float, ratio: float) -> torch.Tensor:
    """``x0`` [B, ...] clamped to ±limit, or for a ratio above 0 to ±s and divided by s (:func:`dynamic_limit`)."""
    x = x0.to(accumulator([x0.dtype]))
    if ratio == 0:
        return x.clamp(-limit, limit).to(x0.dtype)
    if x0.numel() == 0:
        return x0.clone()
    s = dynamic_limit(x, limit, ratio).reshape(-1, *[1] * (x.dim() - 1))
    return (torch.maximum(torch.minimum(x, s), -s) / s).to(x0.dtype)


def dynamic_limit(x0: torch.Tensor, limit: float, ratio: float) -> torch.Tensor:
    """s [B] of dynamic thresholding (Saharia et al. 2022, section 2.3): quantiles of |x0| in [1, max(limit, 1)].

    ``torch.quantile`` by its definition; itself, it makes NaN of infinities and in some versions refuses large tensors.
    """
    ordered = x0.to(accumulator([x0.dtype])).reshape(len(x0), -1).abs().sort(dim=1).values
    last = ordered.shape[1] - 1
    rank = ratio * last
    below = math.floor(rank)
    first, second = ordered[:, below], ordered[:, min(below + 1, last)]
    between = first if rank == below else torch.where(first == second, first, first + (rank - below) * (second - first))
    greatest = ordered[:, last]
    return torch.where(greatest.isnan(), greatest, between).clamp(1.0, max(limit, 1.0))


def blend(
    x: torch.Tensor, mask: torch.Tensor, image: torch.Tensor, noise: torch.Tensor, alpha: float, sigma: float
) -> torch.Tensor:
    """mask·x + (1 − mask)·(alpha·image + sigma·noise), with the shape and dtype of ``x``."""
    acc = accumulator([t.dtype for t in (x, mask, image, noise)])
    m = mask.to(acc)
    known = alpha * image.to(acc) + sigma * noise.to(acc)
    return (m * x.to(acc) + (1 - m) * known).to(x.dtype)


def gated_combination(
    residual: torch.Tensor | None,
    gate: torch.Tensor | None,
    tensors: Sequence[torch.Tensor | tuple[torch.Tensor, torch.Tensor]],
    weights: Sequence[float],
    dtype: torch.dtype,
) -> torch.Tensor:
    """residual + gate·Σ_j weights[j]·tensors[j] in ``dtype``; a pair of codes and scales is worth their product."""
    operands = [t[0] if isinstance(t, tuple) else t for t in (residual, gate, *tensors) if t is not None]
    acc = accumulator([t.dtype for t in operands] + [dtype])
    total = None
    for weight, t in zip(weights, tensors, strict=True):
        if isinstance(t, tuple):
            codes, scales = t
            term = codes.to(acc) * (weight * scales.to(acc)).unsqueeze(-1)
        else:
            term = weight * t.to(acc)
        total = term if total is None else total + term
    if gate is not None:
        total = gate.to(acc) * total
    if residual is not None:
        total = residual.to(acc) + total
    return total.to(dtype)


def relative_l1(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ|a − b| and Σ|b|, float32 or float64."""
    acc = accumulator([a.dtype, b.dtype])
    wide = b.to(acc)
    return (a.to(acc) - wide).abs().sum(), wide.abs().sum()


def ema_update(average: torch.Tensor, theta: torch.Tensor, rate: float) -> torch.Tensor:
    """rate·average + (1 − rate)·theta with the dtype of ``average``, by way of their difference (csrc/ema.h)."""
    acc = accumulator([average.dtype, theta.dtype])
    return torch.lerp(average.to(acc), theta.to(acc), 1 - rate).to(average.dtype)


LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The greatest number of each type of codes."""


def quantize(x: torch.Tensor, minus: torch.Tensor | None, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of v = x − minus, and scales of its rows: max|v| / LARGEST, as csrc/quantize.h says."""
    acc = accumulator([x.dtype] if minus is None else [x.dtype, minus.dtype])
    v = x.to(acc) if minus is None else x.to(acc) - minus.to(acc)
    biggest = v.abs().amax(dim=-1) if v.shape[-1] else v.new_zeros(v.shape[:-1])
    scales = (biggest / LARGEST[dtype]).clamp_min(torch.finfo(torch.float32).tiny).float()
    scales = torch.where(scales.isfinite(), scales, torch.nan).masked_fill(biggest == 0, 0.0)
    scaled = torch.where((scales > 0).unsqueeze(-1), v / scales.to(acc).unsqueeze(-1), 0.0)
    scaled = scaled.clamp(-LARGEST[dtype], LARGEST[dtype])
    return (scaled.round() if dtype == torch.int8 else scaled.float()).to(dtype), scales


def excluded(causal: bool, key_padding: torch.Tensor | None, rows: range, keys: int, device) -> torch.Tensor | None:
    """True, in a shape that broadcasts to [B, H, rows, keys], where attention leaves a key out; None if nowhere."""
    mask = None
    if causal:
        row = torch.arange(rows.start, rows.stop, device=device)
        mask = torch.arange(keys, device=device) > row[:, None]
    if key_padding is not None:
        padded = key_padding[:, None, None, :keys]
        mask = padded if mask is None else padded | mask
    return mask


def weights(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """softmax(scores) over the last dimension, 0 where the mask is True, also in rows where it is True everywhere."""
    if mask is None:
        return scores.softmax(-1)
    # The smallest number in place of −∞, which would make NaN of such a row, in derivatives too.
    return scores.masked_fill(mask, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(mask, 0.0)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, key_padding: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """softmax(scale·q kᵀ) v [B, H, L, D], without the keys that :func:`excluded` names."""
    wide = [t.to(accumulator([q.dtype])) for t in (q, k, v)]
    mask = excluded(causal, key_padding, range(q.shape[-2]), k.shape[-2], q.device)
    p = weights(scale * wide[0] @ wide[1].mT, mask)
    return (p @ wide[2]).to(q.dtype)


def attention_jvp(
    primals: Sequence[torch.Tensor],
    tangents: Sequence[torch.Tensor | None],
    causal: bool,
    key_padding: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`attention` of primals (q, k, v) and its derivative along the tangents, of which None is zero."""
    dtype = primals[0].dtype
    acc = accumulator([dtype])
    q, k, v = (t.to(acc) for t in primals)
    dq, dk, dv = (torch.zeros_like(t) if d is None else d.to(acc) for t, d in zip((q, k, v), tangents, strict=True))
    p = weights(scale * q @ k.mT, excluded(causal, key_padding, range(q.shape[-2]), k.shape[-2], q.device))
    p_ds = p * (scale * (dq @ k.mT + q @ dk.mT))
    out = p @ v
    tangent = p_ds @ v - p_ds.sum(-1, keepdim=True) * out + p @ dv
    return out.to(dtype), tangent.to(dtype)


MASK = 0xFFFFFFFF


def philox(counter: Sequence, key: Sequence) -> list[torch.Tensor]:
    """The four words of Philox4x32-10 (Salmon et al. 2011) as int64 tensors in [0, 2^32).

    ``counter`` is four and ``key`` two numbers in [0, 2^32), integers or int64 tensors that broadcast. What noise puts
    there is defined in csrc/philox.h.
    """
    c0, c1, c2, c3 = (torch.as_tensor(c, dtype=torch.int64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        (high_a, low_a), (high_b, low_b) = _product(c0, 0xD2511F53), _product(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, low_b, high_a ^ c3 ^ k1, low_a
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return list(torch.broadcast_tensors(c0, c1, c2, c3))


def _product(x: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The upper and the lower 32 bits of x·factor, both below 2^32, in halves of x: no sum reaches 2^63."""
    low = (x & 0xFFFF) * factor
    middle = (x >> 16) * factor + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def normal(shape: Sequence[int], seeds: Sequence[int], stream: int, device=None) -> torch.Tensor:
    """Gaussian noise of ``shape`` [B, ...] by the definition in csrc/philox.h, one seed for each of the B samples.

    Float64, from the float32 numbers u1 and u2 of that definition.
    """
    inner = math.prod(shape[1:])
    q = torch.arange((inner + 3) // 4, dtype=torch.int64, device=device)
    seed = torch.tensor(seeds, dtype=torch.int64, device=device).reshape(-1, 1)
    words = philox((q & MASK, q >> 32, stream & MASK, stream >> 32), (seed & MASK, seed >> 32))
    pairs = [_box_muller(*words[:2]), _box_muller(*words[2:])]
    quads = torch.stack([n for pair in pairs for n in pair], dim=-1)
    return quads.flatten(1)[:, :inner].reshape(tuple(shape))


def _box_muller(w0: torch.Tensor, w1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    u1 = (w0.to(torch.float32) * 2.0**-32 + 2.0**-33).double()
    turns = 2 * math.pi * (w1.to(torch.float32) * 2.0**-32).double()
    r = torch.sqrt(-2 * torch.log(u1))
    return r * torch.cos(turns), r * torch.sin(turns)
