"""The paired change of the Fréchet distance: the same noise and labels, sampled by two methods.

Of two sets of a few thousand samples the distances wobble by several percent each, but together: what is left of the
wobble in their ratio is small where the pairs are alike. So both are drawn again with the same indices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .frechet import Moments, frechet_distance


class Change(NamedTuple):
    """``ratio`` is the distance of the one over that of the other; 95 % of the resamples lie between low and high."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * (self.ratio - 1):+.1f} % ({100 * (self.low - 1):+.1f} to {100 * (self.high - 1):+.1f})"


def paired_change(features: torch.Tensor, base: torch.Tensor, real: Moments, resamples: int = 40) -> Change:
    """The change from the method with features ``base`` [N, D] to that with ``features`` [N, D], pair by pair.

    A bootstrap over the pairs (Efron 1979) gives the interval. Raises ValueError where the shapes differ.
    """
    if features.shape != base.shape:
        raise ValueError(f"paired samples need features of one shape, got {list(features.shape)}, {list(base.shape)}")
    generator, ratios = torch.Generator().manual_seed(0), []
    for _ in range(resamples):
        drawn = torch.randint(len(base), (len(base),), generator=generator)
        ratios.append(frechet_distance(features[drawn], real) / frechet_distance(base[drawn], real))
    low, high = torch.tensor(ratios, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return Change(frechet_distance(features, real) / frechet_distance(base, real), float(low), float(high))
