"""``relative_l1`` in Triton: Σ|a − b| and Σ|b|.

Bytes: each of the two is read once, and two numbers of each program are written, which torch adds up in float64. No
atomic additions: the result is the same each time. A program adds up STEPS blocks, each lane in float32 (float64 where
an operand is float64), and then its lanes. The contract is in pyaccel/ops/relative_l1.py.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl

from .linear_combination import BLOCK, INTERPRETED_BLOCK, WARPS

STEPS = 8


@triton.jit
def add_up(a, b, partial, total, ACCUMULATOR: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    """Of STEPS blocks; ``partial`` has two numbers for each program."""
    program = tl.program_id(0)
    begin = program.to(tl.int64) * (BLOCK * STEPS)
    lane = tl.arange(0, BLOCK)
    difference, size = tl.zeros([BLOCK], ACCUMULATOR), tl.zeros([BLOCK], ACCUMULATOR)
    for step in range(STEPS):
        at = begin + step * BLOCK
        inside = lane < total - at
        y = tl.load(b + at + lane, mask=inside, other=0.0).to(ACCUMULATOR)
        x = tl.load(a + at + lane, mask=inside, other=0.0).to(ACCUMULATOR)
        difference += tl.abs(x - y)
        size += tl.abs(y)
    tl.store(partial + 2 * program, tl.sum(difference, 0))
    tl.store(partial + 2 * program + 1, tl.sum(size, 0))


def sums(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ|a − b| and Σ|b| of contiguous tensors, in float64."""
    wide = torch.float64 in (a.dtype, b.dtype)
    block = BLOCK if a.is_cuda or a.is_xpu else INTERPRETED_BLOCK
    programs = triton.cdiv(a.numel(), block * STEPS)
    accumulator = torch.float64 if wide else torch.float32
    partial = torch.zeros(max(1, programs), 2, dtype=accumulator, device=a.device)
    if programs:
        with torch.cuda.device(a.device) if a.is_cuda else contextlib.nullcontext():
            add_up[(programs,)](
                a,
                b,
                partial,
                a.numel(),
                ACCUMULATOR=tl.float64 if wide else tl.float32,
                STEPS=STEPS,
                BLOCK=block,
                num_warps=WARPS,
            )
    difference, size = partial.double().sum(0).unbind()
    return difference, size
