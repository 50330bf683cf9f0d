"""``linear_combination`` in Triton: out_i = Σ_j c_ij·in_j + Σ_s c_i,k+s·ξ_s, elementwise, in one pass over memory.

Bytes: each input is read once and each output written once, per group of at most four outputs; the coefficients are a
small tensor that stays in the cache; the noise ξ_s (philox.py) is drawn in registers. The kernel knows nothing of
limits: it should run at the bandwidth of the memory.

A program computes one block of one sample. It has read all that it needs of its block before it writes, and no other
program touches the block: so an output may be an input. Accumulation is in float32, or in float64 where any operand is
float64. The contract is in pyaccel/ops/linear_combination.py.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache

import torch
import triton
import triton.language as tl

from .philox import normals

MOST_INPUTS = 64
"""Inputs of one launch. More are added up over several launches, in a scratch tensor of the accumulator's type."""

MOST_OUTPUTS = 4
"""Outputs of one launch, whose accumulators have to fit the registers."""

WARPS = 4
BLOCK = 1024
"""Elements of a program: eight of each thread, which is one 16-byte load of bfloat16 or two of float32."""

INTERPRETED_BLOCK = 1 << 16
"""The interpreter pays by the program, not by the element."""


@triton.jit
def combine(
    inputs,
    partials,
    outputs,
    coefficients,
    counters,
    row_stride,
    sample_stride,
    inner,
    blocks_per_sample,
    K: tl.constexpr,
    N: tl.constexpr,
    S: tl.constexpr,
    FIRST: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of N outputs from K inputs and S streams; ``coefficients`` points to sample 0, output 0 and input 0.

    ``counters`` are the numbers of the streams and then the seeds of the samples, int64; not read where S is 0. The
    sums begin with ``partials``, N sums of earlier inputs, unless these inputs are the FIRST.
    """
    program = tl.program_id(0)
    sample = (program // blocks_per_sample).to(tl.int64)
    begin = (program % blocks_per_sample).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    mask = lane < inner - begin
    at = sample * inner + begin  # in 64 bits and the same for all lanes; the lanes' own offsets stay in 32

    sums = ()
    for i in tl.static_range(N):
        if FIRST:
            sums = sums + (tl.zeros([BLOCK], ACCUMULATOR),)  # noqa: RUF005 - the compiler knows no unpacking
        else:
            sums = sums + (tl.load(partials[i] + at + lane, mask=mask),)  # noqa: RUF005
    for j in tl.static_range(K):
        x = tl.load(inputs[j] + at + lane, mask=mask).to(ACCUMULATOR)
        longer = ()
        for i in tl.static_range(N):
            c = tl.load(coefficients + sample * sample_stride + i * row_stride + j)
            longer = longer + (sums[i] + c * x,)  # noqa: RUF005
        sums = longer
    for s in tl.static_range(S):
        xi = normals(tl.load(counters + S + sample), tl.load(counters + s), begin, BLOCK).to(ACCUMULATOR)
        longer = ()
        for i in tl.static_range(N):
            c = tl.load(coefficients + sample * sample_stride + i * row_stride + K + s)
            longer = longer + (sums[i] + c * xi,)  # noqa: RUF005
        sums = longer
    for i in tl.static_range(N):
        value = sums[i]
        if outputs[i].dtype.element_ty.primitive_bitwidth == 16:
            value = value.to(tl.float32)  # no machine rounds float64 to sixteen bits at once
        tl.store(outputs[i] + at + lane, value.to(outputs[i].dtype.element_ty), mask=mask)


def launch(dense: list[torch.Tensor], coefficients, results: list[torch.Tensor], batch: int, noise=None) -> None:
    """Fills ``results`` with the combinations of ``dense``: tensors that all have one layout without gaps.

    Args:
        dense: k inputs; none only where there is noise.
        coefficients: [n, k + s] or [B, n, k + s], nested lists or a tensor on any device.
        results: n outputs. One may be exactly an input if there are at most MOST_OUTPUTS; none may overlap otherwise.
        batch: samples with coefficients of their own; 1 where they are shared.
        noise: None, or the seeds of B samples and s streams; the layout is then the contiguous one.
    """
    device = results[0].device
    seeds, streams = noise if noise is not None else ((), ())
    wide = torch.float64 in [t.dtype for t in (*dense, *results)]
    accumulator = torch.float64 if wide else torch.float32
    c = _on_device(coefficients, accumulator, device).reshape(batch, len(results), len(dense) + len(streams))
    counters = remembered((*streams, *seeds), torch.int64, device) if streams else c
    sample_stride = c.stride(0) if batch > 1 else 0
    batch = len(seeds) if streams else batch
    inner = results[0].numel() // batch
    block = BLOCK if results[0].is_cuda or results[0].is_xpu else INTERPRETED_BLOCK
    blocks_per_sample = triton.cdiv(inner, block)
    context = torch.cuda.device(device) if results[0].is_cuda else contextlib.nullcontext()
    with context:
        for i in range(0, len(results), MOST_OUTPUTS):
            outputs = partials = results[i : i + MOST_OUTPUTS]
            for j in range(0, max(1, len(dense)), MOST_INPUTS):
                inputs, last = dense[j : j + MOST_INPUTS], j + MOST_INPUTS >= len(dense)
                if last:
                    to = outputs
                else:
                    to = [torch.empty_like(dense[0], dtype=accumulator) for _ in outputs] if j == 0 else partials
                combine[(batch * blocks_per_sample,)](
                    tuple(inputs),
                    tuple(partials),
                    tuple(to),
                    c[:, i:, j:],
                    counters,
                    c.stride(1),
                    sample_stride,
                    inner,
                    blocks_per_sample,
                    K=len(inputs),
                    N=len(outputs),
                    S=len(streams) if last else 0,
                    FIRST=j == 0,
                    ACCUMULATOR=tl.float64 if wide else tl.float32,
                    BLOCK=block,
                    num_warps=WARPS,
                    enable_fp_fusion=True,
                )
                partials = to


def _on_device(coefficients, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The coefficients as a contiguous tensor; those of lists are kept, as a sampler asks for the same ones again."""
    if isinstance(coefficients, torch.Tensor):
        return coefficients.detach().to(device=device, dtype=dtype).contiguous()
    return remembered(_hashable(coefficients), dtype, device)


def _hashable(nested):
    return tuple(map(_hashable, nested)) if isinstance(nested, (list, tuple)) else nested


@lru_cache(maxsize=512)
def remembered(coefficients: tuple, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The coefficients on the device, where a solver's step needs the same ones again and again."""
    return torch.tensor(coefficients, dtype=dtype, device=device)
