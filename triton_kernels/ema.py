"""``ema_update`` in Triton: e ← e + (1 − β)·(θ − e) for many tensors and several rates in one launch.

Bytes: each parameter is read once for all rates, each average is read and written once. The addresses of the tensors
stand in a table on the device, which is kept as long as they stay the same; a program finds its tensor by bisection. A
launch is for tensors of the same types, all of them aligned or all of them not. The contract is in pyaccel/ops/ema.py,
the arithmetic in csrc/ema.h.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl

from .linear_combination import BLOCK, INTERPRETED_BLOCK, WARPS, remembered

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float64: tl.float64}


@triton.jit
def pointer(table, place, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """What stands in that place of the table, as the address of elements of ``TYPE``."""
    p = tl.load(table + place).to(tl.pointer_type(TYPE))
    if ALIGNED:
        p = tl.multiple_of(p, 16)
    return p


@triton.jit
def approach_block(
    table,
    weights,
    count,
    tensor,
    begin,
    left,
    WHOLE: tl.constexpr,
    RATES: tl.constexpr,
    THETA: tl.constexpr,
    AVERAGE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Elements from ``begin`` on of one tensor, of which there are so many ``left``, and of its averages."""
    widest: tl.constexpr = max(THETA.primitive_bitwidth, AVERAGE.primitive_bitwidth)
    accumulator: tl.constexpr = tl.float64 if widest == 64 else tl.float32
    lane = tl.arange(0, BLOCK)
    mask = None if WHOLE else lane < left
    theta = tl.load(pointer(table, 2 * count + tensor, THETA, ALIGNED) + begin + lane, mask=mask).to(accumulator)
    for r in tl.static_range(RATES):
        at = pointer(table, (3 + r) * count + tensor, AVERAGE, ALIGNED) + begin + lane
        e = tl.load(at, mask=mask).to(accumulator)
        value = tl.where(tl.load(weights + 2 * r + 1) != 0, theta, e) + tl.load(weights + 2 * r) * (theta - e)
        if AVERAGE.primitive_bitwidth == 16:
            value = value.to(tl.float32)  # no machine rounds float64 to sixteen bits at once
        tl.store(at, value.to(AVERAGE), mask=mask)


@triton.jit
def approach(
    table,
    weights,
    count,
    RATES: tl.constexpr,
    THETA: tl.constexpr,
    AVERAGE: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of one tensor and of its averages.

    ``table`` has rows of ``count`` numbers: for each tensor its first program, its size, its address and those of its
    averages. ``weights`` [RATES, 2] say how far to go, and whether from θ (1) or from the average (0). 2^ROUNDS is at
    least ``count``.
    """
    program = tl.program_id(0)
    low = 0
    high = count
    for _ in range(ROUNDS):
        middle = (low + high) // 2
        before = tl.load(table + middle) <= program
        low = tl.where(before & (high - low > 1), middle, low)
        high = tl.where(before, high, middle)
    begin = (program - tl.load(table + low)) * BLOCK
    left = tl.load(table + count + low) - begin
    # Without a mask a whole block goes in vectors, whatever the size of its tensor.
    if left >= BLOCK:
        approach_block(table, weights, count, low, begin, left, True, RATES, THETA, AVERAGE, ALIGNED, BLOCK)
    else:
        approach_block(table, weights, count, low, begin, left, False, RATES, THETA, AVERAGE, ALIGNED, BLOCK)


def launch(ema: list[list[torch.Tensor]], params: list[torch.Tensor], rates: list[float]) -> None:
    """Updates contiguous tensors on one device: ``ema`` has for each rate an average of each parameter."""
    groups: dict[tuple, list[int]] = {}
    for i, theta in enumerate(params):
        if theta.numel():
            averages = [e[i] for e in ema]
            aligned = all(t.data_ptr() % 16 == 0 for t in (theta, *averages))
            groups.setdefault((theta.dtype, tuple(e.dtype for e in averages), aligned), []).append(i)
    for (dtype, dtypes, aligned), places in groups.items():
        for kind in dict.fromkeys(dtypes):  # averages of several types take a launch each
            of = [r for r, d in enumerate(dtypes) if d is kind]
            averages = [[ema[r][i] for i in places] for r in of]
            _launch_alike(averages, [params[i] for i in places], [rates[r] for r in of], (dtype, kind, aligned))


def _launch_alike(ema, params, rates, kind) -> None:
    device, (theta_type, average_type, aligned) = params[0].device, kind
    on_gpu = device.type != "cpu"
    block = BLOCK if on_gpu else INTERPRETED_BLOCK
    sizes, begins, programs = [t.numel() for t in params], [], 0
    for size in sizes:
        begins.append(programs)
        programs += triton.cdiv(size, block)
    addresses = [t.data_ptr() for tensors in (params, *ema) for t in tensors]
    table = remembered((*begins, *sizes, *addresses), torch.int64, device)
    accumulator = torch.float64 if torch.float64 in (theta_type, average_type) else torch.float32
    weights = tuple(w for b in rates for w in ((-b, 1.0) if b <= 0.5 else (1 - b, 0.0)))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        approach[(programs,)](
            table,
            remembered(weights, accumulator, device),
            len(params),
            RATES=len(rates),
            THETA=TYPES[theta_type],
            AVERAGE=TYPES[average_type],
            ALIGNED=aligned,
            ROUNDS=len(params).bit_length(),
            BLOCK=block,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
