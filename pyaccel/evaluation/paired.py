"""The paired change of the Fréchet distance: the same noise and labels, sampled by two methods.

Of two sets of a few thousand samples the distances wobble by several percent each, but together: what is left of the
wobble in their ratio is small where the pairs are alike. So both are drawn again with the same indices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .frechet import Moments, frechet_distance


class Interval(NamedTuple):
    """``value`` is the figure of all samples; 95 % of the resamples lie between low and high."""

    value: float
    low: float
    high: float


class Change(Interval):
    """The distance of the one over that of the other."""

    def __str__(self) -> str:
        return f"{100 * (self.value - 1):+.1f} % ({100 * (self.low - 1):+.1f} to {100 * (self.high - 1):+.1f})"


def bootstrap(statistic: Callable[[torch.Tensor], float], count: int, resamples: int = 40) -> Interval:
    """The interval of a statistic of ``count`` samples, a function of their indices [count] (Efron 1979).

    A resample holds some samples twice, so that its Fréchet distance is larger than that of all samples: the interval
    is moved by as much as the resamples' mean is off.
    """
    generator, everything = torch.Generator().manual_seed(0), statistic(torch.arange(count))
    drawn = [statistic(torch.randint(count, (count,), generator=generator)) for _ in range(resamples)]
    values = torch.tensor(drawn, dtype=torch.float64)
    quantiles = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)) + (everything - values.mean())
    return Interval(everything, *quantiles.tolist())


def paired_change(features: torch.Tensor, base: torch.Tensor, real: Moments, resamples: int = 40) -> Change:
    """The change from the method with features ``base`` [N, D] to that with ``features`` [N, D], pair by pair.

    A :func:`bootstrap` over the pairs gives the interval. Raises ValueError where the shapes differ.
    """
    if features.shape != base.shape:
        raise ValueError(f"paired samples need features of one shape, got {list(features.shape)}, {list(base.shape)}")
    return Change(
        *bootstrap(
            lambda drawn: frechet_distance(features[drawn], real) / frechet_distance(base[drawn], real),
            len(base),
            resamples,
        )
    )
