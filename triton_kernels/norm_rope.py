"""``qk_norm_rope`` in Triton, with its derivatives: y = x·r·weight, r = 1/√(mean(x²) + eps), and each pair (a, b) of y
becomes (a·cos_a − b·sin_a, b·cos_b + a·sin_b).

Tangent: dy = r·(dx − h·mean(dx·h))·weight + h·dweight with h = x·r, turned as y is, and y turned by the tangents of the
angles. Backward: g is the gradient turned back, e = g·weight, gx = r·(e − h·mean(e·h)), and Σg·h over the tokens is the
gradient of the weight.

Bytes: each element (and in the other two its tangent or gradient) is read once and written once; the angles of a token
are read once for all of its heads. A program holds all heads of a token, the backward ROWS of them, whose sums for the
weight it writes for torch to add up. The contract is in pyaccel/ops/qk_norm_rope.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .rows import MOST_WIDTH, ROWS, accumulator, launch


@triton.jit
def load_pairs(
    pointer,
    row,
    heads,
    width,
    PRESENT: tl.constexpr,
    ABSENT: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """The first and the second elements of the pairs of [heads, width] at ``row``, 0 outside; ABSENT without it."""
    if not PRESENT:
        return tl.full([1, 1], ABSENT, ACCUMULATOR), tl.full([1, 1], ABSENT, ACCUMULATOR)
    head = tl.arange(0, HEADS)[:, None]
    if NEIGHBOURS:
        lane = tl.arange(0, 2 * HALF)[None, :]
        inside = (head < heads) & (lane < width)
        both = tl.load(pointer + row * heads * width + head * width + lane, mask=inside, other=0.0).to(ACCUMULATOR)
        a, b = tl.split(tl.reshape(both, [HEADS, HALF, 2]))
    else:
        lane = tl.arange(0, HALF)[None, :]
        inside = (head < heads) & (lane < width // 2)
        first = pointer + row * heads * width + head * width + lane
        a = tl.load(first, mask=inside, other=0.0).to(ACCUMULATOR)
        b = tl.load(first + width // 2, mask=inside, other=0.0).to(ACCUMULATOR)
    return a, b


@triton.jit
def store_pairs(pointer, row, heads, width, a, b, NEIGHBOURS: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr):
    """Writes the first and the second elements of the pairs of [heads, width] at ``row``, rounded to their type."""
    if pointer.dtype.element_ty.primitive_bitwidth == 16:
        a, b = a.to(tl.float32), b.to(tl.float32)  # no machine rounds float64 to sixteen bits at once
    a, b = a.to(pointer.dtype.element_ty), b.to(pointer.dtype.element_ty)
    head = tl.arange(0, HEADS)[:, None]
    if NEIGHBOURS:
        lane = tl.arange(0, 2 * HALF)[None, :]
        both = tl.reshape(tl.join(a, b), [HEADS, 2 * HALF])
        inside = (head < heads) & (lane < width)
        tl.store(pointer + row * heads * width + head * width + lane, both, mask=inside)
    else:
        lane = tl.arange(0, HALF)[None, :]
        inside = (head < heads) & (lane < width // 2)
        first = pointer + row * heads * width + head * width + lane
        tl.store(first, a, mask=inside)
        tl.store(first + width // 2, b, mask=inside)


@triton.jit
def mean(a, b, heads, width, ACROSS: tl.constexpr):
    """Of all heads or of each, [1, 1] or [HEADS, 1]; a and b are 0 outside."""
    each = tl.sum(a + b, 1, keep_dims=True) / width
    return tl.sum(each, 0, keep_dims=True) / heads if ACROSS else each


@triton.jit
def norm_rope(
    x,
    weight,
    cos,
    sin,
    out,
    heads,
    width,
    cos_period,
    sin_period,
    WEIGHT: tl.constexpr,
    COS: tl.constexpr,
    ACROSS: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    EPS: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """All heads of one token. Tokens have the same angles after every ``period`` of them."""
    token = tl.program_id(0).to(tl.int64)
    a, b = load_pairs(x, token, heads, width, True, 0.0, NEIGHBOURS, ACCUMULATOR, HEADS, HALF)
    r = 1.0 / tl.sqrt(mean(a * a, b * b, heads, width, ACROSS) + EPS)
    OF_WEIGHT: tl.constexpr = HEADS if ACROSS else 1
    entries = heads if ACROSS else 1
    wa, wb = load_pairs(weight, 0, entries, width, WEIGHT, 1.0, NEIGHBOURS, ACCUMULATOR, OF_WEIGHT, HALF)
    a, b = a * r * wa, b * r * wb
    ca, cb = load_pairs(cos, token % cos_period, 1, width, COS, 1.0, NEIGHBOURS, ACCUMULATOR, 1, HALF)
    sa, sb = load_pairs(sin, token % sin_period, 1, width, COS, 0.0, NEIGHBOURS, ACCUMULATOR, 1, HALF)
    store_pairs(out, token, heads, width, a * ca - b * sa, b * cb + a * sb, NEIGHBOURS, HEADS, HALF)


@triton.jit
def norm_rope_tangent(
    x,
    weight,
    cos,
    sin,
    x_tangent,
    weight_tangent,
    cos_tangent,
    sin_tangent,
    out,
    heads,
    width,
    cos_period,
    sin_period,
    WEIGHT: tl.constexpr,
    COS: tl.constexpr,
    X_TANGENT: tl.constexpr,
    WEIGHT_TANGENT: tl.constexpr,
    COS_TANGENT: tl.constexpr,
    SIN_TANGENT: tl.constexpr,
    ACROSS: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    EPS: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """The tangent of all heads of one token; one that is absent is 0."""
    token = tl.program_id(0).to(tl.int64)
    a, b = load_pairs(x, token, heads, width, True, 0.0, NEIGHBOURS, ACCUMULATOR, HEADS, HALF)
    r = 1.0 / tl.sqrt(mean(a * a, b * b, heads, width, ACROSS) + EPS)
    a, b = a * r, b * r
    OF_WEIGHT: tl.constexpr = HEADS if ACROSS else 1
    entries = heads if ACROSS else 1
    wa, wb = load_pairs(weight, 0, entries, width, WEIGHT, 1.0, NEIGHBOURS, ACCUMULATOR, OF_WEIGHT, HALF)
    ca, cb = load_pairs(cos, token % cos_period, 1, width, COS, 1.0, NEIGHBOURS, ACCUMULATOR, 1, HALF)
    sa, sb = load_pairs(sin, token % sin_period, 1, width, COS, 0.0, NEIGHBOURS, ACCUMULATOR, 1, HALF)
    da, db = tl.zeros([HEADS, HALF], ACCUMULATOR), tl.zeros([HEADS, HALF], ACCUMULATOR)
    if X_TANGENT:
        da, db = load_pairs(x_tangent, token, heads, width, True, 0.0, NEIGHBOURS, ACCUMULATOR, HEADS, HALF)
        m = mean(da * a, db * b, heads, width, ACROSS)
        da, db = (da - a * m) * r * wa, (db - b * m) * r * wb
    if WEIGHT_TANGENT:
        ta, tb = load_pairs(weight_tangent, 0, entries, width, True, 0.0, NEIGHBOURS, ACCUMULATOR, OF_WEIGHT, HALF)
        da, db = da + a * ta, db + b * tb
    da, db = da * ca - db * sa, db * cb + da * sb
    a, b = a * wa, b * wb
    if COS_TANGENT:
        ta, tb = load_pairs(cos_tangent, token % cos_period, 1, width, True, 0.0, NEIGHBOURS, ACCUMULATOR, 1, HALF)
        da, db = da + a * ta, db + b * tb
    if SIN_TANGENT:
        ta, tb = load_pairs(sin_tangent, token % sin_period, 1, width, True, 0.0, NEIGHBOURS, ACCUMULATOR, 1, HALF)
        da, db = da - b * ta, db + a * tb
    store_pairs(out, token, heads, width, da, db, NEIGHBOURS, HEADS, HALF)


@triton.jit
def norm_rope_backward(
    gradient,
    x,
    weight,
    cos,
    sin,
    x_gradient,
    sums,
    tokens,
    heads,
    width,
    cos_period,
    sin_period,
    WEIGHT: tl.constexpr,
    COS: tl.constexpr,
    ACROSS: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    EPS: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """ROWS tokens; ``sums`` has [heads, width] for each program, of the gradient of the weight."""
    program = tl.program_id(0).to(tl.int64)
    OF_WEIGHT: tl.constexpr = HEADS if ACROSS else 1
    entries = heads if ACROSS else 1
    total_a, total_b = tl.zeros([HEADS, HALF], ACCUMULATOR), tl.zeros([HEADS, HALF], ACCUMULATOR)
    for token in range(program * ROWS, tl.minimum(program * ROWS + ROWS, tokens)):
        a, b = load_pairs(x, token, heads, width, True, 0.0, NEIGHBOURS, ACCUMULATOR, HEADS, HALF)
        r = 1.0 / tl.sqrt(mean(a * a, b * b, heads, width, ACROSS) + EPS)
        a, b = a * r, b * r
        ga, gb = load_pairs(gradient, token, heads, width, True, 0.0, NEIGHBOURS, ACCUMULATOR, HEADS, HALF)
        ca, cb = load_pairs(cos, token % cos_period, 1, width, COS, 1.0, NEIGHBOURS, ACCUMULATOR, 1, HALF)
        sa, sb = load_pairs(sin, token % sin_period, 1, width, COS, 0.0, NEIGHBOURS, ACCUMULATOR, 1, HALF)
        ga, gb = ga * ca + gb * sb, gb * cb - ga * sa
        if WEIGHT:
            total_a, total_b = total_a + ga * a, total_b + gb * b
            wa, wb = load_pairs(weight, 0, entries, width, True, 1.0, NEIGHBOURS, ACCUMULATOR, OF_WEIGHT, HALF)
            ga, gb = ga * wa, gb * wb
        m = mean(ga * a, gb * b, heads, width, ACROSS)
        store_pairs(x_gradient, token, heads, width, (ga - a * m) * r, (gb - b * m) * r, NEIGHBOURS, HEADS, HALF)
    if WEIGHT:
        store_pairs(sums, program, heads, width, total_a, total_b, NEIGHBOURS, HEADS, HALF)


def blocks(heads: int, width: int) -> tuple[int, int]:
    """HEADS and HALF: powers of two that hold them."""
    return triton.next_power_of_2(heads), triton.next_power_of_2(width // 2)


def loaded_at_once(heads: int, half: int, neighbours: bool) -> int:
    """Elements of a block; halves are loaded one after the other, and a thread wants enough of each for 16 bytes."""
    return (2 if neighbours else 1) * heads * half


def served(x: torch.Tensor) -> bool:
    """Whether there are elements, and all heads of a token fit the registers."""
    heads, half = blocks(*x.shape[-2:])
    return x.numel() > 0 and 2 * heads * half <= MOST_WIDTH


def forward(x, weight, cos, sin, eps: float, neighbours: bool) -> torch.Tensor:
    """The result for contiguous tensors that are :func:`served`; cos and sin are [B or 1, L, 1, D] or None."""
    out = torch.empty_like(x)
    _launch(norm_rope, x, {"weight": weight, "cos": cos, "sin": sin, "out": out}, eps, neighbours)
    return out


def tangent(tangents, x, weight, cos, sin, eps: float, neighbours: bool) -> torch.Tensor:
    """The tangent of the result from those of the operands, contiguous and of their shapes, or None."""
    out = torch.empty_like(x)
    operands = {"weight": weight, "cos": cos, "sin": sin, "out": out}
    changes = {f"{n}_tangent": t for n, t in zip(("x", "weight", "cos", "sin"), tangents, strict=True)}
    _launch(norm_rope_tangent, x, operands | changes, eps, neighbours)
    return out


def backward(gradient, x, weight, cos, sin, eps: float, neighbours: bool) -> list[torch.Tensor | None]:
    """The gradients of x and of the weight."""
    tokens = x.numel() // x.shape[-2:].numel()
    programs = triton.cdiv(tokens, ROWS)
    acc = accumulator(gradient, x, weight, cos, sin)
    sums = None if weight is None else torch.empty(programs, *x.shape[-2:], dtype=acc, device=x.device)
    x_gradient = torch.empty_like(x)
    operands = {"gradient": gradient, "weight": weight, "cos": cos, "sin": sin, "x_gradient": x_gradient, "sums": sums}
    _launch(norm_rope_backward, x, operands | {"tokens": tokens}, eps, neighbours, programs, ROWS=ROWS)
    if weight is None:
        return [x_gradient, None]
    total = sums.sum(0)
    total = total.flatten() if weight.numel() == total.numel() else total.sum(0)
    return [x_gradient, total.to(weight.dtype)]


def _launch(kernel, x, operands: dict, eps: float, neighbours: bool, programs: int | None = None, **constants) -> None:
    heads, width = x.shape[-2:]
    tokens = x.numel() // (heads * width)
    weight = operands["weight"]
    heads_block, half = blocks(heads, width)
    launch(
        kernel,
        tokens if programs is None else programs,
        loaded_at_once(heads_block, half, neighbours),
        {
            "x": x,
            **operands,
            "heads": heads,
            "width": width,
            **{f"{n}_period": 1 if operands[n] is None else operands[n].numel() // width for n in ("cos", "sin")},
        },
        {
            **{n.upper(): t is not None for n, t in operands.items() if n.upper() in kernel.arg_names},
            "ACROSS": weight is not None and weight.numel() != width,
            "NEIGHBOURS": neighbours,
            "EPS": eps,
            "HEADS": heads_block,
            "HALF": half,
            **constants,
        },
    )
