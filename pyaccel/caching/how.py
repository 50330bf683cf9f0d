"""How a feature is predicted: from the positions of the remembered ones to their weights, and nothing else.

Every prediction is a linear combination of raw features, so the features themselves are kept, by reference, and no
difference is ever formed. Positions are step numbers or another coordinate of a run (time, log-SNR).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .moment import Moment


@dataclass(frozen=True)
class How:
    """``weights(positions, present)`` are those of the features computed at ``positions``, newest first.

    ``order`` is the highest difference that is used; ``first`` the step from which differences are formed. How many
    have been formed (the depth) is counted by the history, since its length does not tell: it grows by one with each
    full step from ``first`` on. ``gauged(moment, count)``, where there is one, gives the weights of ``count`` features
    by what a rule has seen.
    """

    order: int
    first: int
    weights: Callable[[Sequence[float], float], list[float]]
    gauged: Callable[[Moment, int], list[float]] | None = None


def reuse() -> How:
    """The newest feature as it is."""
    return taylor(0)


def taylor(order: int, first: int = 0) -> How:
    """TaylorSeer's prediction Σ_i f_i·x^i/i! with x steps since the newest (Liu et al. 2025, arXiv 2503.06923, eq. 8).

    f_0 is the newest feature and f_(i+1) = (f_i − f_i of the full step before)/(steps between the two). Order 0 is
    plain reuse.
    """
    return How(_checked(order), first, _on_differences(lambda i, x: x**i / math.factorial(i)))


def hermite(order: int, first: int = 0, scale: float = 0.7) -> How:
    """HiCache's prediction: TaylorSeer's with σ^i·H_i(σx) for x^i (Feng et al. 2025, arXiv 2508.16984, eq. 10).

    H_i are the physicists' Hermite polynomials and σ = ``scale`` in (0, 1) holds their growth back.
    """
    if not 0 < scale < 1:
        raise ValueError(f"scale must be between 0 and 1, got {scale!r}")

    def basis(i: int, x: float) -> float:
        before, now = 0.0, 1.0
        for n in range(i):
            before, now = now, 2 * scale * x * now - 2 * n * before
        return scale**i * now / math.factorial(i)

    return How(_checked(order), first, _on_differences(basis))


def newton(order: int, first: int = 0) -> How:
    """The polynomial through the last order + 1 features: Newton's divided differences, exact on uneven steps.

    Its weights are those of Lagrange: w_j = Π_(k≠j) (x − x_k)/(x_j − x_k).
    """

    def weights(positions: Sequence[float], present: float) -> list[float]:
        return [
            math.prod((present - other) / (x - other) for k, other in enumerate(positions) if k != j)
            for j, x in enumerate(positions)
        ]

    return How(_checked(order), first, weights)


HOWS = {"reuse": lambda order, first=0: reuse(), "taylor": taylor, "newton": newton, "hermite": hermite}


def _on_differences(basis: Callable[[int, float], float]):
    """The weights over raw features of Σ_i f_i·basis(i, x), f_i as in :func:`taylor`."""

    def weights(positions: Sequence[float], present: float) -> list[float]:
        count = len(positions)
        # rows[n] are the weights of f_i at the n-th newest full step, over all remembered features.
        rows = [[float(n == j) for j in range(count)] for n in range(count)]
        total = list(rows[0])
        x = present - positions[0]
        for i in range(1, count):
            rows = [
                [(a - b) / (positions[n] - positions[n + 1]) for a, b in zip(rows[n], rows[n + 1], strict=True)]
                for n in range(len(rows) - 1)
            ]
            factor = basis(i, x)
            total = [w + factor * d for w, d in zip(total, rows[0], strict=True)]
        return total

    return weights


def _checked(order: int) -> int:
    if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order <= 8:
        raise ValueError(f"order must be a whole number from 0 to 8, got {order!r}")
    return order
