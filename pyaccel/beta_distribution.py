"""Quantiles of the Beta distribution, for time grids; numpy has none and scipy is not among our dependencies."""

from __future__ import annotations

import math

import numpy as np


def beta_quantile(p: np.ndarray, a: float, b: float) -> np.ndarray:
    """The x in [0, 1] with I_x(a, b) = p, for p in [0, 1] and a, b > 0, to about 1e-12 relative to the nearer end.

    I_x(a, b) is the regularised incomplete beta function, the distribution function of Beta(a, b). ValueError for a or
    b that are not positive numbers.
    """
    if not (0 < a < math.inf and 0 < b < math.inf):
        raise ValueError(f"beta_quantile: a and b must be positive numbers, got {a!r} and {b!r}")
    p = np.asarray(p, dtype=np.float64)
    middle = math.exp(float(_log_cumulative(np.array(math.log(0.5)), a, b, _coefficients(a, b))))
    # I_x(a, b) = 1 − I_{1−x}(b, a): each side is solved from its own end, where the series is good.
    low = p <= middle
    x = np.empty_like(p)
    x[low] = _lower_quantile(p[low], a, b)
    x[~low] = 1 - _lower_quantile(1 - p[~low], b, a)
    return x


def _lower_quantile(p: np.ndarray, a: float, b: float) -> np.ndarray:
    """The quantile x ≤ 1/2, by Newton's method for log p as a function of log x: nearly a straight line of slope a."""
    coefficients = _coefficients(a, b)
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    y = np.minimum((log_p + math.log(a) + _log_beta(a, b)) / a, math.log(0.5))
    zero = p == 0
    y[zero] = math.log(0.5)  # any number: replaced below
    for _ in range(50):
        log_i = _log_cumulative(y, a, b, coefficients)
        # d log I / d log x = x·density(x) / I
        slope = np.exp(a * y + (b - 1) * np.log1p(-np.exp(y)) - _log_beta(a, b) - log_i)
        step = np.where(zero, 0.0, (log_i - log_p) / slope)
        y = np.minimum(y - step, math.log(0.5))
        if np.all(np.abs(step) < 1e-14 * np.maximum(1.0, np.abs(y))):
            break
    return np.where(zero, 0.0, np.exp(y))


def _coefficients(a: float, b: float) -> np.ndarray:
    """c_n = Π_{k<n} (a + b + k)/(a + 1 + k), until c_n / 2^n is below rounding."""
    c = [1.0]
    while c[-1] > 1e-18 * 2.0 ** len(c) and len(c) < 10_000:
        k = len(c) - 1
        c.append(c[-1] * (a + b + k) / (a + 1 + k))
    return np.array(c)


def _log_cumulative(y: np.ndarray, a: float, b: float, coefficients: np.ndarray) -> np.ndarray:
    """log I_x(a, b) at x = e^y ≤ 1/2: I_x = x^a·(1 − x)^b/(a·B(a, b))·Σ c_n x^n (Abramowitz & Stegun, 26.5.4)."""
    x = np.exp(y)
    series = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        series = series * x + c
    return a * y + b * np.log1p(-x) - math.log(a) - _log_beta(a, b) + np.log(series)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
