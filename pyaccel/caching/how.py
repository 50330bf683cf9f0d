"""How a feature is predicted: from the steps of the remembered ones to their weights, and nothing else.

Every prediction is a linear combination of raw features, so the features themselves are kept, by reference, and no
difference is ever formed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class How:
    """``weights(steps, present)`` are those of the features computed at ``steps``, newest first.

    ``order`` is the highest difference that is used; ``first`` the step from which differences are formed. How many
    have been formed (the depth) is counted by the history, since its length does not tell: it grows by one with each
    full step from ``first`` on.
    """

    order: int
    first: int
    weights: Callable[[Sequence[int], int], list[float]]


def taylor(order: int, first: int = 0) -> How:
    """TaylorSeer's prediction Σ_i f_i·x^i/i! with x steps since the newest (Liu et al. 2025, arXiv 2503.06923, eq. 8).

    f_0 is the newest feature and f_(i+1) = (f_i − f_i of the full step before)/(steps between the two). Order 0 is
    plain reuse.
    """
    if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order <= 8:
        raise ValueError(f"order must be a whole number from 0 to 8, got {order!r}")

    def weights(steps: Sequence[int], present: int) -> list[float]:
        count = len(steps)
        # rows[n] are the weights of f_i at the n-th newest full step, over all remembered features.
        rows = [[float(n == j) for j in range(count)] for n in range(count)]
        total = list(rows[0])
        x = present - steps[0]
        for i in range(1, count):
            rows = [
                [(a - b) / (steps[n] - steps[n + 1]) for a, b in zip(rows[n], rows[n + 1], strict=True)]
                for n in range(len(rows) - 1)
            ]
            factor = x**i / math.factorial(i)
            total = [w + factor * d for w, d in zip(total, rows[0], strict=True)]
        return total

    return How(order, first, weights)
