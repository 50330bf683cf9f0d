"""The Fréchet distance of two feature clouds (Heusel et al. 2017, arXiv 1706.08500), computed by torchmetrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance


@dataclass(frozen=True)
class Moments:
    """What the Fréchet distance needs of the real images: ``sum`` [D] of the features, ``outer`` [D, D], the sum of
    their outer products, both float64, and their ``count``."""

    sum: torch.Tensor
    outer: torch.Tensor
    count: int


class _AsIs(nn.Module):
    """torchmetrics wants a network; the features are there already, since precision and recall need them as well."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def moments(features: torch.Tensor) -> Moments:
    """The sums of features [N, D], in float64. ValueError unless N ≥ 2."""
    metric = FrechetInceptionDistance(_AsIs(_checked(features).shape[1]))
    metric.update(features.double(), real=True)
    return Moments(metric.real_features_sum, metric.real_features_cov_sum, int(metric.real_features_num_samples))


def frechet_distance(features: torch.Tensor, reference: Moments) -> float:
    """|μ − μ_r|² + tr(Σ + Σ_r − 2 (Σ Σ_r)^½) of features [N, D] and the reference's, in float64; smaller is better.

    The distance of a small sample is too large by a share that falls as 1/N: compare only values of equal N.
    Raises ValueError when N < 2 or D is not the reference's.
    """
    width = reference.sum.shape[0]
    if _checked(features).shape[1] != width:
        raise ValueError(f"features have {features.shape[1]} columns, but the reference was made with {width}")
    metric = FrechetInceptionDistance(_AsIs(width), sync_on_compute=False)  # of this process alone
    metric.real_features_sum = reference.sum.double()
    metric.real_features_cov_sum = reference.outer.double()
    metric.real_features_num_samples = torch.tensor(reference.count)
    metric.update(features.double(), real=False)
    return max(0.0, float(metric.compute()))  # rounding alone can take the distance of equal clouds below zero


def _checked(features: torch.Tensor) -> torch.Tensor:
    if features.dim() != 2 or len(features) < 2:
        raise ValueError(f"the Fréchet distance needs features [N, D] with N >= 2, got {list(features.shape)}")
    return features
