"""The native kernel of ``linear_combination``, called with addresses: on the CPU or on a GPU, as the tensors lie."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import backend, reference
from .backend import CODES

MOST_OUTPUTS = 4
"""Outputs of one launch on a GPU."""


def combine(
    dense: list[Tensor], coefficients, results: list[Tensor], batch: int, seeds: Sequence[int], streams: Sequence[int]
) -> None:
    """Fills ``results`` with the combinations of ``dense``: tensors that have elements and all one layout without gaps.

    ``coefficients`` [n, k + s] or [B, n, k + s] are nested lists, which must be finite, or a tensor, which on a GPU is
    read there. ``batch`` says how many matrices of them there are. ``seeds`` are those of the samples, where there are
    ``streams`` of noise.
    """
    if results[0].is_cuda and len(dense) + len(streams) > backend._native.most_columns:
        _combine_in_parts(dense, coefficients, results, batch, seeds, streams)
        return
    device, table = -1, None
    if results[0].is_cuda:
        device = results[0].device.index
        if isinstance(coefficients, Tensor):
            accumulator = reference.accumulator([t.dtype for t in (*dense, *results)])
            table = coefficients.detach().to(results[0].device, accumulator).contiguous()
    rows = () if table is not None else _flat(coefficients)
    backend._native.linear_combination(
        rows,
        batch,
        [t.data_ptr() for t in dense],
        [CODES[t.dtype] for t in dense],
        [t.data_ptr() for t in results],
        [CODES[t.dtype] for t in results],
        results[0].numel() // (len(seeds) if streams else batch),
        not isinstance(coefficients, Tensor),
        seeds,
        streams,
        device,
        0 if table is None else table.data_ptr(),
    )


def _combine_in_parts(dense, coefficients, results, batch: int, seeds, streams) -> None:
    """The same with more inputs and streams than a launch has room for: what comes first is added up in scratch."""
    most, like = backend._native.most_columns, results[0]
    accumulator = reference.accumulator([t.dtype for t in (*dense, *results)])
    c = coefficients if isinstance(coefficients, Tensor) else torch.tensor(coefficients, dtype=torch.float64)
    if streams:
        drawn = [torch.empty_like(like, dtype=torch.float32) for _ in streams]
        for stream, xi in zip(streams, drawn, strict=True):
            combine([], [[1.0]], [xi], 1, seeds, [stream])
        dense = [*dense, *drawn]
    for i in range(0, len(results), MOST_OUTPUTS):
        some, rows, left = results[i : i + MOST_OUTPUTS], c[..., i : i + MOST_OUTPUTS, :].detach(), list(dense)
        identity = torch.eye(len(some), dtype=c.dtype, device=c.device).expand(*rows.shape[:-1], len(some))
        while len(left) > most:
            partial = [torch.empty_like(like, dtype=accumulator) for _ in some]
            combine(left[:most], _as_given(rows[..., :most], coefficients), partial, batch, (), ())
            left, rows = [*partial, *left[most:]], torch.cat([identity, rows[..., most:]], dim=-1)
        combine(left, _as_given(rows, coefficients), some, batch, (), ())


def _as_given(rows: Tensor, coefficients):
    return rows if isinstance(coefficients, Tensor) else rows.tolist()


def _flat(coefficients) -> list[float]:
    if isinstance(coefficients, Tensor):
        return coefficients.detach().reshape(-1).tolist()
    return flatten(coefficients)


def flatten(nested) -> list[float]:
    """The numbers of nested lists, one after the other."""
    return [x for row in nested for x in flatten(row)] if isinstance(nested[0], Sequence) else list(nested)
