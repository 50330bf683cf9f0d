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
