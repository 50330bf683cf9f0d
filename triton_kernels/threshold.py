"""``threshold`` in Triton: out = clamp(x, −s, s), divided by s where each sample has an s of its own.

Bytes: each element is read once and written once. The quantile that makes an s is a sort by torch, before this. A
program has read its block before it writes it, and no other touches it: so the output may be the input. The contract is
in pyaccel/ops/threshold.py, the arithmetic in csrc/threshold.h.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl

from .linear_combination import BLOCK, INTERPRETED_BLOCK, WARPS


@triton.jit
def clamp(
    x_pointer,
    out_pointer,
    limits,
    inner,
    blocks_per_sample,
    DIVIDE: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of one sample; ``limits`` has an s for each sample if they DIVIDE, otherwise one for all."""
    program = tl.program_id(0)
    sample = (program // blocks_per_sample).to(tl.int64)
    begin = (program % blocks_per_sample).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    mask = lane < inner - begin
    at = sample * inner + begin
    x = tl.load(x_pointer + at + lane, mask=mask).to(ACCUMULATOR)
    s = tl.load(limits + (sample if DIVIDE else 0))
    # Comparisons that are false for a NaN let it pass.
    value = tl.where(x > s, s, x)
    value = tl.where(value < -s, -s, value)
    if DIVIDE:
        if limits.dtype.element_ty.primitive_bitwidth == 64:
            value = value / s
        else:
            value = tl.div_rn(value, s + tl.zeros_like(value))  # where it is s, the quotient is exactly one
    tl.store(out_pointer + at + lane, value.to(out_pointer.dtype.element_ty), mask=mask)


def launch(x: torch.Tensor, limit: float | torch.Tensor, out: torch.Tensor) -> None:
    """Fills ``out`` from ``x``, both contiguous and not empty; ``limit`` is a number, or a tensor [B] of divisors."""
    divide = isinstance(limit, torch.Tensor)
    wide = x.dtype == torch.float64
    accumulator = torch.float64 if wide else torch.float32
    limits = limit.to(accumulator) if divide else torch.full((1,), limit, dtype=accumulator, device=x.device)
    inner = x.numel() // (len(x) if divide else 1)
    block = BLOCK if x.is_cuda or x.is_xpu else INTERPRETED_BLOCK
    blocks_per_sample = triton.cdiv(inner, block)
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        clamp[(x.numel() // inner * blocks_per_sample,)](
            x,
            out,
            limits.contiguous(),
            inner,
            blocks_per_sample,
            DIVIDE=divide,
            ACCUMULATOR=tl.float64 if wide else tl.float32,
            BLOCK=block,
            num_warps=WARPS,
        )
