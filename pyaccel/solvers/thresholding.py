"""The map between conversion and update: predictions of x0 clamped, by a fixed limit or by each sample's quantile."""

from __future__ import annotations

import torch

from .plan import Threshold


def threshold_(x0: torch.Tensor, threshold: Threshold) -> torch.Tensor:
    """``x0`` [B, ...] clamped in place; see :class:`Threshold`."""
    limit, ratio = threshold
    if ratio == 0:
        return x0.clamp_(-limit, limit) if not x0.requires_grad else x0.clamp(-limit, limit)
    s = torch.quantile(x0.detach().reshape(len(x0), -1).abs(), ratio, dim=1).clamp(1.0, max(limit, 1.0))
    s = s.reshape(-1, *[1] * (x0.dim() - 1))
    return torch.maximum(torch.minimum(x0, s), -s) / s
