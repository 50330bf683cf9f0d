"""``gated_combination`` in Triton: out = residual + gate·Σ_j w_j·in_j, elementwise; inputs may be 8-bit codes.

Bytes: residual and every input are read once, out is written once, and a gate that several tokens share is read again
from the cache. A program computes one block of one row, so that the block has one scale of each input of codes; it has
read its block before it writes it, and no other touches it: so the output may be an input. The contract is in
pyaccel/ops/gated_combination.py, the arithmetic in csrc/gated_combination.h.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl

from .linear_combination import BLOCK, INTERPRETED_BLOCK, MOST_INPUTS, WARPS, remembered


@triton.jit
def decoded(codes, E4M3: tl.constexpr):
    """The numbers of int8 codes; of the bits of e4m3fn, by way of the float16 whose exponent is greater by 8."""
    if not E4M3:
        return codes.to(tl.float32)
    bits = codes.to(tl.int32)
    magnitude = bits & 0x7F
    half = ((bits & 0x80) << 8) | tl.where(magnitude == 0x7F, 0x7F80, magnitude << 7)
    return half.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32) * 256.0


@triton.jit
def combine_gated(
    residual,
    gate,
    inputs,
    scales,
    out,
    weights,
    row_size,
    inner,
    repeats,
    blocks_per_row,
    K: tl.constexpr,
    GATE: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of a row of ``row_size`` elements. ``inner`` elements of the gate serve ``repeats`` runs, one after
    the other. GATE: 0 for none, 1 for one number in each row, 2 for one for each element. Codes of e4m3fn are uint8.
    """
    program = tl.program_id(0)
    row = (program // blocks_per_row).to(tl.int64)
    begin = (program % blocks_per_row).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    inside = lane < row_size - begin
    at = row * row_size + begin
    total = tl.zeros([BLOCK], ACCUMULATOR)
    for j in tl.static_range(K):
        weight = tl.load(weights + j)
        x = tl.load(inputs[j] + at + lane, mask=inside)
        if inputs[j].dtype.element_ty.primitive_bitwidth == 8:
            weight = weight * tl.load(scales[j] + row)
            total += weight * decoded(x, inputs[j].dtype.element_ty == tl.uint8).to(ACCUMULATOR)
        else:
            total += weight * x.to(ACCUMULATOR)
    if GATE == 1:
        total = total * tl.load(gate + at // repeats).to(ACCUMULATOR)
    elif GATE == 2:
        run = at // inner
        first = run // repeats * inner + (at - run * inner)  # not at % inner, of whose divisors Triton knows nothing
        total = total * tl.load(gate + first + lane, mask=inside).to(ACCUMULATOR)
    if RESIDUAL:
        total = total + tl.load(residual + at + lane, mask=inside).to(ACCUMULATOR)
    if out.dtype.element_ty.primitive_bitwidth == 16:
        total = total.to(tl.float32)  # no machine rounds float64 to sixteen bits at once
    tl.store(out + at + lane, total.to(out.dtype.element_ty), mask=inside)


def launch(residual, gate, tensors: list, weights: list[float], out: torch.Tensor) -> bool:
    """Fills ``out`` from contiguous tensors and pairs of codes and scales; residual and gate may be None.

    The gate has as many dimensions as the tensors. False, and nothing done, for one whose runs do not go with rows;
    hand it over in full then.
    """
    shape, total = out.shape, out.numel()
    quantized = any(isinstance(t, tuple) for t in tensors)
    inner, repeats = (total, 1) if gate is None else runs(gate.shape, shape)
    constant = gate is not None and inner == 1 and repeats > 1
    if repeats == 0 or (repeats > 1 and not constant and inner < 256):
        return False
    if not total:
        return True
    row_size = repeats if constant else inner
    if quantized:
        if row_size % shape[-1]:
            return False
        row_size = shape[-1]  # a block has one scale
    elif constant and repeats < 256:
        return False
    operands = [t for t in (residual, gate, out, *tensors) if isinstance(t, torch.Tensor)]
    wide = torch.float64 in [t.dtype for t in operands]
    accumulator = torch.float64 if wide else torch.float32
    while len(tensors) > MOST_INPUTS:
        partial = torch.empty(shape, dtype=accumulator, device=out.device)
        launch(None, None, tensors[:MOST_INPUTS], weights[:MOST_INPUTS], partial)
        tensors, weights = [partial, *tensors[MOST_INPUTS:]], [1.0, *weights[MOST_INPUTS:]]
    inputs = tuple(bits(t[0]) if isinstance(t, tuple) else t for t in tensors)
    scales = tuple(t[1] if isinstance(t, tuple) else out for t in tensors)
    block = BLOCK if out.is_cuda or out.is_xpu else INTERPRETED_BLOCK
    block = min(block, triton.next_power_of_2(row_size))
    blocks_per_row = triton.cdiv(row_size, block)
    with torch.cuda.device(out.device) if out.is_cuda else contextlib.nullcontext():
        combine_gated[(total // row_size * blocks_per_row,)](
            out if residual is None else residual,
            out if gate is None else gate,
            inputs,
            scales,
            out,
            remembered(tuple(weights), accumulator, out.device),
            row_size,
            inner,
            repeats,
            blocks_per_row,
            K=len(inputs),
            GATE=0 if gate is None else 1 if constant else 2,
            RESIDUAL=residual is not None,
            ACCUMULATOR=tl.float64 if wide else tl.float32,
            BLOCK=block,
            num_warps=WARPS,
        )
    return True


def bits(codes: torch.Tensor) -> torch.Tensor:
    """int8 as it is, e4m3fn as uint8: so they are read on machines that do not know the type."""
    return codes if codes.dtype == torch.int8 else codes.view(torch.uint8)


def runs(gate, shape) -> tuple[int, int]:
    """(inner, repeats) of a gate: runs of so many elements, each shared so often; (1, 0) where it is not so made."""
    d, inner, repeats = len(shape) - 1, 1, 1
    while d >= 0 and gate[d] == shape[d]:
        inner, d = inner * shape[d], d - 1
    while d >= 0 and gate[d] == 1:
        repeats, d = repeats * shape[d], d - 1
    return (inner, repeats) if tuple(gate[: d + 1]) == tuple(shape[: d + 1]) else (1, 0)
