"""The map between conversion and update: predictions of x0 clamped, by a fixed limit or by each sample's quantile."""

from __future__ import annotations

import torch

from .. import ops
from .plan import Threshold


def threshold_(x0: torch.Tensor, threshold: Threshold) -> torch.Tensor:
    """``x0`` [B, ...] clamped, in place where no graph needs it; see :class:`Threshold`."""
    limit, ratio = threshold
    return ops.threshold(x0, limit, ratio, out=None if x0.requires_grad else x0)
