"""``quantize`` in Triton: v = x − minus in 8-bit codes, with a scale for each row: max|v| / L, L = 127 or 448.

Bytes: x and minus are read once from memory and once more from the cache, in which a row stays; the codes are written
once. A program does one row, in blocks: the greatest first, then the codes. Codes of e4m3fn are made of integers, so
that they are the same on machines that do not know the type. The contract is in pyaccel/ops/quantize.py, the arithmetic
in csrc/quantize.h and csrc/numeric.h.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl

from .gated_combination import bits
from .linear_combination import INTERPRETED_BLOCK, WARPS

MOST_BLOCK = 4096
"""Elements of a row that a program holds at once."""

LARGEST = {torch.int8: 127.0, torch.uint8: 448.0}


@triton.jit
def difference(x, minus, at, inside, MINUS: tl.constexpr, ACCUMULATOR: tl.constexpr):
    """x, or x − minus, at these places; 0 outside."""
    v = tl.load(x + at, mask=inside, other=0.0).to(ACCUMULATOR)
    if MINUS:
        v = v - tl.load(minus + at, mask=inside, other=0.0).to(ACCUMULATOR)
    return v


@triton.jit
def quotient(a, b, WIDE: tl.constexpr):
    """a / b in float32, rounded as IEEE 754 says, which Triton's division is not."""
    return (a / b).to(tl.float32) if WIDE else tl.div_rn(a, b)


@triton.jit
def to_int8(v):
    """Adding 1.5·2^23 leaves the integer, rounded, at the end of the bits."""
    return ((v + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000).to(tl.int8)


@triton.jit
def to_e4m3(v):
    """The bits of e4m3fn. Below 2^-6 its step is 2^-9, as it is above 2^14 in a float."""
    u = v.to(tl.int32, bitcast=True)
    size = tl.minimum(u & 0x7FFFFFFF, 0x43E00000)  # 448
    normal = (size - 0x3C000000 + 0x7FFFF + ((size >> 20) & 1)) >> 20
    small = (size.to(tl.float32, bitcast=True) + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    return (((u >> 24) & 0x80) | tl.where(size < 0x3C800000, small, normal)).to(tl.uint8)


@triton.jit
def quantize_row(
    x,
    minus,
    codes,
    scales,
    width,
    LARGEST: tl.constexpr,
    MINUS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row of ``width`` elements; WIDE: in float64."""
    ACCUMULATOR: tl.constexpr = tl.float64 if WIDE else tl.float32
    row = tl.program_id(0).to(tl.int64)
    first = row * width
    lane = tl.arange(0, BLOCK)
    biggest = tl.zeros([BLOCK], ACCUMULATOR)
    odd = tl.zeros([BLOCK], tl.int32)
    for begin in range(0, width, BLOCK):
        size = tl.abs(difference(x, minus, first + begin + lane, lane < width - begin, MINUS, ACCUMULATOR))
        finite = size < float("inf")
        biggest = tl.maximum(biggest, tl.where(finite, size, 0.0))
        odd = odd | tl.where(finite, 0, 1)
    most = tl.max(biggest, 0)
    bad = tl.max(odd, 0) != 0
    least = 1.1754943508222875e-38  # 2^-126
    scale = tl.maximum(quotient(most, most * 0 + LARGEST, WIDE), least)
    bad = bad | (scale == float("inf"))  # of float64 beyond the range of float32
    scale = tl.where(most == 0, 0.0, scale)
    tl.store(scales + row, tl.where(bad, float("nan"), scale))
    divisor = tl.where(most == 0, 1.0, scale).to(ACCUMULATOR) + tl.zeros([BLOCK], ACCUMULATOR)
    for begin in range(0, width, BLOCK):
        inside = lane < width - begin
        v = difference(x, minus, first + begin + lane, inside, MINUS, ACCUMULATOR)
        v = tl.where(bad, 0.0, quotient(v, divisor, WIDE))
        if codes.dtype.element_ty == tl.int8:
            tl.store(codes + first + begin + lane, to_int8(v), mask=inside)
        else:
            tl.store(codes + first + begin + lane, to_e4m3(v), mask=inside)


def launch(x: torch.Tensor, minus: torch.Tensor | None, codes: torch.Tensor, scales: torch.Tensor) -> None:
    """Fills ``codes`` [rows, n] and ``scales`` [rows] from contiguous tensors that have elements; minus may be None."""
    wide = x.dtype == torch.float64 or (minus is not None and minus.dtype == torch.float64)
    to = bits(codes)
    most = MOST_BLOCK if x.is_cuda or x.is_xpu else INTERPRETED_BLOCK
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        quantize_row[(len(x),)](
            x,
            x if minus is None else minus,
            to,
            scales,
            x.shape[1],
            LARGEST=LARGEST[to.dtype],
            MINUS=minus is not None,
            WIDE=wide,
            BLOCK=min(most, triton.next_power_of_2(x.shape[1])),
            num_warps=WARPS,
        )
