"""``blend`` in Triton: out = m·x + (1 − m)·(alpha·image + sigma·noise), elementwise.

Bytes: x, image and noise are read once, out is written once, and a mask that several channels or samples share is read
again from the cache. A program has read its block before it writes it, and no other touches it: so the output may be an
input. The contract is in pyaccel/ops/blend.py, the arithmetic in csrc/blend.h.
"""

from __future__ import annotations

import contextlib
import math

import torch
import triton
import triton.language as tl

from .linear_combination import BLOCK, INTERPRETED_BLOCK, WARPS


@triton.jit
def mix(
    x,
    mask,
    image,
    noise,
    out,
    coefficients,
    inner,
    repeats,
    blocks_per_run,
    ACCUMULATOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of a run of ``inner`` elements; ``repeats`` runs, one after the other, share a run of the mask."""
    program = tl.program_id(0)
    run = (program // blocks_per_run).to(tl.int64)
    begin = (program % blocks_per_run).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    inside = lane < inner - begin
    at = run * inner + begin
    alpha, sigma = tl.load(coefficients), tl.load(coefficients + 1)
    known = sigma * tl.load(noise + at + lane, mask=inside).to(ACCUMULATOR)
    known = known + alpha * tl.load(image + at + lane, mask=inside).to(ACCUMULATOR)
    m = tl.load(mask + run // repeats * inner + begin + lane, mask=inside).to(ACCUMULATOR)
    value = m * tl.load(x + at + lane, mask=inside).to(ACCUMULATOR) + (1 - m) * known
    if out.dtype.element_ty.primitive_bitwidth == 16:
        value = value.to(tl.float32)  # no machine rounds float64 to sixteen bits at once
    tl.store(out + at + lane, value.to(out.dtype.element_ty), mask=inside)


def launch(x, mask, image, noise, alpha: float, sigma: float, out: torch.Tensor) -> bool:
    """Fills ``out`` from contiguous tensors; the mask may have size 1 along dimensions that stand together.

    False, and nothing done, for a mask with runs too short for a program; hand it over in full then.
    """
    shared = [m == 1 and size > 1 for m, size in zip(mask.shape, x.shape, strict=True)]
    places = [d for d, is_shared in enumerate(shared) if is_shared]
    inner, repeats = math.prod(x.shape), 1
    if places:
        first, last = places[0], places[-1]
        inner, repeats = math.prod(x.shape[last + 1 :]), math.prod(x.shape[first : last + 1])
        if math.prod(mask.shape[first : last + 1]) != 1 or inner < 256:
            return False
    if not x.numel():
        return True
    wide = torch.float64 in [t.dtype for t in (x, mask, image, noise)]
    accumulator = torch.float64 if wide else torch.float32
    coefficients = torch.tensor([alpha, sigma], dtype=accumulator, device=x.device)
    block = BLOCK if x.is_cuda or x.is_xpu else INTERPRETED_BLOCK
    blocks_per_run = triton.cdiv(inner, block)
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        mix[(x.numel() // inner * blocks_per_run,)](
            x,
            mask,
            image,
            noise,
            out,
            coefficients,
            inner,
            repeats,
            blocks_per_run,
            ACCUMULATOR=tl.float64 if wide else tl.float32,
            BLOCK=block,
            num_warps=WARPS,
        )
    return True
