"""``attention_jvp`` in Triton: attention and its tangent in one pass over the keys.

With S = scale·QKᵀ, P = softmax(S) and O = PV, the tangents of Q, K, V give

    dS = scale·(dQ Kᵀ + Q dKᵀ)
    dO_i = Σ_j P_ij dS_ij V_j − (Σ_j P_ij dS_ij) O_i + Σ_j P_ij dV_j.

A program owns a block of queries of one head. For the weights exp(S − m), with the running maximum m, it keeps their
total and the sums μ, O and T of their products with dS, V and dS V + dV, and rescales all when m rises. At the end the
output is O / total, and its tangent (T − μ·output) / total.

Flops of a head: 12·L·S·D, half of it under ``causal``. The weights and their products with dS enter tensor cores as
two numbers of 16 bits each, the value and what its rounding lost, so that only the results are rounded: then it is
18·L·S·D. Bytes: 4·L·D elements of queries and results once, and 4·S·D of keys and values, which each program reads
again, from the cache as a rule. Nothing of size L·S is ever stored. It is bound by arithmetic.

The contract is in pyaccel/ops/attention.py.
"""

from __future__ import annotations

import contextlib
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

MOST_HEAD_DIM = 256


class Blocks(NamedTuple):
    """Queries and keys of a block, warps of a program, stages of the loop over keys, and columns of Q and K at once."""

    queries: int
    keys: int
    warps: int
    stages: int
    columns: int


BLOCKS = {
    torch.bfloat16: {
        32: Blocks(64, 32, 4, 2, 32),
        64: Blocks(128, 32, 8, 2, 64),
        128: Blocks(128, 16, 8, 2, 128),
        256: Blocks(32, 32, 8, 2, 64),
    },
    torch.float32: {32: Blocks(64, 32, 4, 2, 32), 64: Blocks(32, 16, 8, 2, 64), 256: Blocks(16, 16, 8, 2, 64)},
}
"""Blocks by the head dimension up to which they serve, chosen by compiling, not by timing: large ones that spill no
register on Hopper and take no more than 99 KB of shared memory, which any GPU since Ampere has. float16 takes those of
bfloat16."""

TENSOR_MEMORY_BLOCKS = {64: Blocks(64, 32, 4, 2, 64), 128: Blocks(64, 16, 4, 2, 128)}
"""The same for 16 bits on GPUs of compute capability 10 and 11, where the sums have to fit the 512 columns of tensor
memory: of a kernel that wants more Triton makes one that only traps."""

LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def tile(base, step, n, d, inside, D: tl.constexpr, EDGE: tl.constexpr):
    """Rows n and columns d, with 0 in columns from D on and in rows that are not ``inside``: all are without EDGE."""
    pointers = base + n[:, None] * step + d[None, :]
    if EDGE:
        return tl.load(pointers, mask=inside[:, None] & (d < D)[None, :], other=0.0)
    elif d.shape[0] > D:
        return tl.load(pointers, mask=(d < D)[None, :], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def add_scores(s, ds, q, dq, k, dk, DQ: tl.constexpr, DK: tl.constexpr, PRECISION: tl.constexpr):
    """s + q kᵀ and ds + dq kᵀ + q dkᵀ."""
    s = tl.dot(q, tl.trans(k), s, input_precision=PRECISION)
    if DQ:
        ds = tl.dot(dq, tl.trans(k), ds, input_precision=PRECISION)
    if DK:
        ds = tl.dot(q, tl.trans(dk), ds, input_precision=PRECISION)
    return s, ds


@triton.jit
def add_product(sums, weights, values, PRECISION: tl.constexpr):
    """sums + weights·values, for weights of float32 that are not rounded to the type of the values."""
    high = weights.to(values.dtype)
    sums = tl.dot(high, values, sums, input_precision=PRECISION)
    if values.dtype.primitive_bitwidth == 16:
        low = (weights - high.to(tl.float32)).to(values.dtype)
        sums = tl.dot(low, values, sums)
    return sums


@triton.jit
def sweep(
    begin,
    end,
    state,
    held,
    bases,
    steps,
    padding,
    first,
    queries,
    keys,
    scale,
    D: tl.constexpr,
    CAUSAL: tl.constexpr,
    PADDING: tl.constexpr,
    DQ: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    EDGE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The blocks of keys from ``begin`` to ``end``. EDGE: some of their keys are not there, or not for every row.

    ``held`` are the queries and their tangent where COLUMNS are all; otherwise they are read again for each block.
    """
    m, total, mu, o, t = state
    q_base, k_base, v_base, dq_base, dk_base, dv_base = bases
    q_step, k_step, v_step, dq_step, dk_step, dv_step = steps
    row, n, d, c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D), tl.arange(0, COLUMNS)
    there = row < queries - first
    for start in range(begin, end, BLOCK_N):
        start = tl.multiple_of(start, BLOCK_N)
        at = start.to(tl.int64)
        inside = n < keys - start
        s = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        ds = s
        if COLUMNS == BLOCK_D:
            q, dq = held
            k = tile(k_base + at * k_step, k_step, n, d, inside, D, EDGE)
            dk = tile(dk_base + at * dk_step, dk_step, n, d, inside, D, EDGE) if DK else k
            s, ds = add_scores(s, ds, q, dq, k, dk, DQ, DK, PRECISION)
        else:
            for column in range(0, D, COLUMNS):
                column = tl.multiple_of(column, COLUMNS)
                left = D - column
                q = tile(q_base + column, q_step, row, c, there, left, True)
                dq = tile(dq_base + column, dq_step, row, c, there, left, True) if DQ else q
                k = tile(k_base + at * k_step + column, k_step, n, c, inside, left, True)
                dk = tile(dk_base + at * dk_step + column, dk_step, n, c, inside, left, True) if DK else k
                s, ds = add_scores(s, ds, q, dq, k, dk, DQ, DK, PRECISION)
        s = s * (scale * LOG2_E)
        if EDGE:
            s = tl.where(inside[None, :], s, -float("inf"))
        if EDGE and CAUSAL:
            s = tl.where((start + n)[None, :] <= (first + row)[:, None], s, -float("inf"))
        if PADDING:
            padded = tl.load(padding + at + n, mask=inside, other=1)
            s = tl.where((padded != 0)[None, :], -float("inf"), s)
        highest = tl.maximum(m, tl.max(s, 1))
        # Under PADDING a row may have had no key so far, and −∞ less −∞ is no number.
        shift = tl.where(highest == -float("inf"), 0.0, highest) if PADDING else highest
        p = tl.math.exp2(s - shift[:, None])
        rescale = tl.math.exp2(m - shift)
        m = highest
        total = total * rescale + tl.sum(p, 1)
        o = o * rescale[:, None]
        t = t * rescale[:, None]
        v = tile(v_base + at * v_step, v_step, n, d, inside, D, EDGE)
        o = add_product(o, p, v, PRECISION)
        if DQ or DK:
            p_ds = p * (ds * scale)
            mu = mu * rescale + tl.sum(p_ds, 1)
            t = add_product(t, p_ds, v, PRECISION)
        if DV:
            dv = tile(dv_base + at * dv_step, dv_step, n, d, inside, D, EDGE)
            t = add_product(t, p, dv, PRECISION)
    return m, total, mu, o, t


@triton.jit
def attend(
    q_pointer,
    k_pointer,
    v_pointer,
    dq_pointer,
    dk_pointer,
    dv_pointer,
    padding,
    out_pointer,
    tangent_pointer,
    q_strides,
    k_strides,
    v_strides,
    dq_strides,
    dk_strides,
    dv_strides,
    out_strides,
    heads,
    queries,
    keys,
    scale,
    UNIT: tl.constexpr,
    D: tl.constexpr,
    CAUSAL: tl.constexpr,
    PADDING: tl.constexpr,
    DQ: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One block of queries of one head. Strides are those of batch, head and row, in units of UNIT elements: so the
    compiler knows that rows begin where 16 bytes can be read at once.
    """
    blocks = tl.cdiv(queries, BLOCK_M)
    head = tl.program_id(0) // blocks
    block = blocks - 1 - tl.program_id(0) % blocks  # under CAUSAL the last have the most to do
    b, h = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    first = block * BLOCK_M
    i = first.to(tl.int64)
    bases = (
        q_pointer + (b * q_strides[0] + h * q_strides[1] + i * q_strides[2]) * UNIT,
        k_pointer + (b * k_strides[0] + h * k_strides[1]) * UNIT,
        v_pointer + (b * v_strides[0] + h * v_strides[1]) * UNIT,
        dq_pointer + (b * dq_strides[0] + h * dq_strides[1] + i * dq_strides[2]) * UNIT,
        dk_pointer + (b * dk_strides[0] + h * dk_strides[1]) * UNIT,
        dv_pointer + (b * dv_strides[0] + h * dv_strides[1]) * UNIT,
    )
    steps = (
        q_strides[2] * UNIT,
        k_strides[2] * UNIT,
        v_strides[2] * UNIT,
        dq_strides[2] * UNIT,
        dk_strides[2] * UNIT,
        dv_strides[2] * UNIT,
    )
    row, d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    there = row < queries - first
    held = (0, 0)
    if COLUMNS == BLOCK_D:
        q = tile(bases[0], steps[0], row, d, there, D, True)
        held = (q, tile(bases[3], steps[3], row, d, there, D, True) if DQ else q)

    zeros = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    state = (zeros - float("inf"), zeros, zeros, sums, sums)
    end = keys
    whole = keys // BLOCK_N * BLOCK_N
    if CAUSAL:
        end = tl.minimum(keys, first + BLOCK_M)
        whole = tl.minimum(whole, first // BLOCK_N * BLOCK_N)
    for part in tl.static_range(2):
        state = sweep(
            0 if part == 0 else whole,
            whole if part == 0 else end,
            state,
            held,
            bases,
            steps,
            padding + b * keys,
            first,
            queries,
            keys,
            scale,
            D,
            CAUSAL,
            PADDING,
            DQ,
            DK,
            DV,
            part == 1,
            PRECISION,
            BLOCK_D,
            BLOCK_M,
            BLOCK_N,
            COLUMNS,
        )
    _, total, mu, o, t = state
    total = tl.where(total == 0.0, 1.0, total)[:, None]  # a row without keys: all its sums are 0
    o = o / total
    t = (t - mu[:, None] * o) / total
    at = (b * out_strides[0] + h * out_strides[1] + i * out_strides[2]) * UNIT
    at += row[:, None] * (out_strides[2] * UNIT) + d[None, :]
    mask = there[:, None] & (d < D)[None, :]
    tl.store(out_pointer + at, o.to(out_pointer.dtype.element_ty), mask=mask)
    tl.store(tangent_pointer + at, t.to(out_pointer.dtype.element_ty), mask=mask)


def launch(primals: list, tangents: list, causal: bool, key_padding, scale: float, out, tangent) -> bool:
    """Fills ``out`` and ``tangent``, of equal strides, from tensors of one dtype whose last dimension is dense.

    Tangents may be None. False, and nothing done, for what the kernel does not take: float64, more than 256 numbers
    to a head, or rows far apart.
    """
    head_dim, dtype = out.shape[-1], out.dtype
    if dtype == torch.float64 or head_dim > MOST_HEAD_DIM:
        return False
    if not out.numel():
        return True
    if not primals[1].numel():
        out.zero_(), tangent.zero_()
        return True
    if dtype == torch.bfloat16 and out.device.type == "cpu":
        # The interpreter's product takes bfloat16 for the integers of its bits.
        primals, tangents = ([None if t is None else t.float() for t in some] for some in (primals, tangents))
    tensors = [t if d is None else d for d, t in zip([*primals, *tangents], primals * 2, strict=True)] + [out]
    strides = [
        tuple(stride if size > 1 else 0 for stride, size in zip(t.stride()[:3], t.shape[:3], strict=True))
        for t in tensors
    ]
    if max(map(max, strides)) >= 2**24:  # offsets within a block are of 32 bits
        return False
    batch, heads, queries = out.shape[:3]
    unit = math.gcd(16 // dtype.itemsize, *(stride for three in strides for stride in three))
    nvidia = out.is_cuda and not torch.version.hip
    blocks = blocks_for(head_dim, dtype, torch.cuda.get_device_capability(out.device)[0] if nvidia else 0)
    with torch.cuda.device(out.device) if out.is_cuda else contextlib.nullcontext():
        attend[(triton.cdiv(queries, blocks.queries) * batch * heads,)](
            *tensors[:6],
            out if key_padding is None else key_padding.contiguous(),
            out,
            tangent,
            *(tuple(stride // unit for stride in three) for three in strides),
            heads,
            queries,
            primals[1].shape[2],
            scale,
            UNIT=unit,
            D=head_dim,
            CAUSAL=causal,
            PADDING=key_padding is not None,
            DQ=tangents[0] is not None,
            DK=tangents[1] is not None,
            DV=tangents[2] is not None,
            PRECISION=precision(head_dim, dtype),
            BLOCK_D=padded(head_dim),
            BLOCK_M=blocks.queries,
            BLOCK_N=blocks.keys,
            COLUMNS=min(blocks.columns, padded(head_dim)),
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
    return True


def blocks_for(head_dim: int, dtype: torch.dtype, major: int) -> Blocks:
    """The blocks for a GPU of compute capability ``major``, 0 for one that has none."""
    table = BLOCKS[torch.float32 if dtype == torch.float32 else torch.bfloat16]
    if major in (10, 11) and dtype != torch.float32:
        table = table | TENSOR_MEMORY_BLOCKS
    return table[min(most for most in table if head_dim <= most)]


def padded(head_dim: int) -> int:
    """The columns of a block: tensor cores want 16 at least, Triton a power of two."""
    return max(16, triton.next_power_of_2(head_dim))


def precision(head_dim: int, dtype: torch.dtype) -> str:
    """How products of float32 are made: as PyTorch's are; for "highest" by three of TF32, where registers allow it."""
    if dtype != torch.float32 or torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    return "ieee" if torch.version.hip or head_dim > 64 else "tf32x3"
