"""The semantics of every operation in plain PyTorch: differentiable, on any device, in float64 when asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def accumulator(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """float64 where any operand is float64, otherwise float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def linear_combination(
    tensors: Sequence[torch.Tensor], coefficients: Sequence | torch.Tensor, dtypes: Sequence[torch.dtype]
) -> list[torch.Tensor]:
    """out_i = Σ_j c_ij·tensors_j with c [n, k] or [B, n, k], numbers or a tensor; out_i has ``dtypes[i]``."""
    acc = accumulator([t.dtype for t in tensors] + list(dtypes))
    wide = [t.to(acc) for t in tensors]
    rank = max(t.dim() for t in tensors)

    if isinstance(coefficients, torch.Tensor):
        c = coefficients.to(device=tensors[0].device, dtype=acc)
        per_sample = c.dim() == 3
    else:
        per_sample = isinstance(coefficients[0][0], Sequence)
        c = torch.tensor(coefficients, dtype=acc, device=tensors[0].device) if per_sample else coefficients

    def factor(i: int, j: int):
        if per_sample:
            return c[:, i, j].reshape(-1, *([1] * (rank - 1)))
        return c[i][j]

    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    results = []
    for i, dtype in enumerate(dtypes):
        total = wide[0] * factor(i, 0)
        for j in range(1, len(wide)):
            total = total + wide[j] * factor(i, j)
        results.append(total.expand(shape).to(dtype))
    return results
