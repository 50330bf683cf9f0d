"""Scalar functions that serve floats, numpy arrays, tensors and duals alike.

Schedules and solvers are written once. Handed floats they give float64 coefficients; handed tensors that require
gradients, or duals (:mod:`pyaccel.duals`), they give coefficients that are differentiable in learned times.
``math.expm1`` of a tensor would cut the gradient without a word, hence this module.
"""

from __future__ import annotations

import bisect
import math
from typing import Any, TypeAlias

import numpy as np
import torch

from .duals import Dual, value_of

Scalar: TypeAlias = Any
"""A float, a numpy array, a float64 tensor or a dual."""


def _dispatch(name: str, of_float, of_array, of_tensor, slope):
    """``slope(x, y)`` is the derivative at x, where the function is y."""

    def function(x: Scalar) -> Scalar:
        if isinstance(x, float):
            return of_float(x)
        if isinstance(x, torch.Tensor):
            return of_tensor(x)
        if isinstance(x, np.ndarray):
            return of_array(x)
        if isinstance(x, Dual):
            y = of_float(x.value)
            return x.chain(y, slope(x.value, y))
        return of_float(x)

    function.__name__ = name
    function.__doc__ = f"{name}(x) of a float, an array or a tensor, elementwise."
    return function


def _exp_of_float(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _exp_of_array(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(x)


exp = _dispatch("exp", _exp_of_float, _exp_of_array, torch.exp, lambda _, y: y)
"""e^x, infinite where it overflows, for floats too."""
expm1 = _dispatch("expm1", math.expm1, np.expm1, torch.expm1, lambda _, y: y + 1)
sqrt = _dispatch("sqrt", math.sqrt, np.sqrt, torch.sqrt, lambda _, y: 0.5 / y)
sin = _dispatch("sin", math.sin, np.sin, torch.sin, lambda x, _: math.cos(x))
cos = _dispatch("cos", math.cos, np.cos, torch.cos, lambda x, _: -math.sin(x))
arcsin = _dispatch("arcsin", math.asin, np.arcsin, torch.arcsin, lambda x, _: 1 / math.sqrt(1 - x * x))
arccos = _dispatch("arccos", math.acos, np.arccos, torch.arccos, lambda x, _: -1 / math.sqrt(1 - x * x))
arctan = _dispatch("arctan", math.atan, np.arctan, torch.arctan, lambda x, _: 1 / (1 + x * x))
arcsinh = _dispatch("arcsinh", math.asinh, np.arcsinh, torch.arcsinh, lambda x, _: 1 / math.sqrt(1 + x * x))


def _log_of_float(x: float) -> float:
    return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)


def _log_of_array(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(x)


def _log1p_of_float(x: float) -> float:
    return math.log1p(x) if x > -1 else (-math.inf if x == -1 else math.nan)


def _log1p_of_array(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log1p(x)


log = _dispatch("log", _log_of_float, _log_of_array, torch.log, lambda x, _: 1 / x)
"""log(x), with log(0) = -inf for floats too, as numpy and torch have it."""

log1p = _dispatch("log1p", _log1p_of_float, _log1p_of_array, torch.log1p, lambda x, _: 1 / (1 + x))
"""log(1 + x), with log1p(-1) = -inf for floats too."""


def as_float64(x: Scalar) -> Scalar:
    """A float, or the array or tensor in float64 (integers included); gradients are kept."""
    if isinstance(x, torch.Tensor):
        return x.to(torch.float64)
    if isinstance(x, Dual):
        return x
    if isinstance(x, np.ndarray | list | tuple):
        return np.asarray(x, dtype=np.float64)
    return float(x)


def maximum(x: Scalar, low: float) -> Scalar:
    """The larger of x and ``low``, elementwise."""
    if isinstance(x, torch.Tensor):
        return x.clamp(min=low)
    return np.maximum(x, low) if isinstance(x, np.ndarray) else max(x, low)


def minimum(x: Scalar, high: float) -> Scalar:
    """The smaller of x and ``high``, elementwise."""
    if isinstance(x, torch.Tensor):
        return x.clamp(max=high)
    return np.minimum(x, high) if isinstance(x, np.ndarray) else min(x, high)


def divide(x: Scalar, y: Scalar) -> Scalar:
    """x / y for x other than 0 and y ≥ 0, infinite where y is 0, for floats too."""
    if isinstance(x, float | Dual) and isinstance(y, float | Dual):
        return x / y if value_of(y) else math.copysign(math.inf, value_of(x))
    with np.errstate(divide="ignore"):
        return x / y


def softplus(x: Scalar) -> Scalar:
    """log(1 + e^x) without overflow."""
    if isinstance(x, torch.Tensor):
        return torch.logaddexp(x, torch.zeros_like(x))
    if isinstance(x, np.ndarray):
        return np.logaddexp(x, 0.0)
    if isinstance(x, Dual):
        return x.chain(softplus(x.value), 1 / (1 + _exp_of_float(-x.value)))
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def interval(x: Scalar, knots: np.ndarray, right: bool = False) -> np.ndarray | torch.Tensor:
    """The i with knots[i] < x ≤ knots[i + 1], or ≤ and < if ``right``; the first or last interval beyond the ends."""
    if isinstance(x, torch.Tensor):
        k = torch.as_tensor(knots, device=x.device)
        return (torch.searchsorted(k, x.detach().contiguous(), right=right) - 1).clamp(0, len(knots) - 2)
    x = x.value if isinstance(x, Dual) else x
    return np.clip(np.searchsorted(knots, x, side="right" if right else "left") - 1, 0, len(knots) - 2)


def take(values: np.ndarray, index: np.ndarray | torch.Tensor) -> Scalar:
    """values[index], on the device of ``index``."""
    if isinstance(index, torch.Tensor):
        return torch.as_tensor(values, device=index.device)[index]
    return values[index]


class PiecewiseLinear:
    """Straight lines through (``knots``, ``values``), and straight on beyond the ends; knots increase."""

    def __init__(self, knots: np.ndarray, values: np.ndarray):
        self.knots, self.values, self.slopes = knots, values, np.diff(values) / np.diff(knots)
        # One float at a time, lists and bisection are twenty times as fast as arrays.
        self._lists = knots.tolist(), values.tolist(), self.slopes.tolist()

    def __call__(self, x: Scalar) -> Scalar:
        """The value at x."""
        if isinstance(x, float | Dual):
            knots, values, slopes = self._lists
            i = min(max(bisect.bisect_left(knots, value_of(x)) - 1, 0), len(slopes) - 1)
            return values[i] + (x - knots[i]) * slopes[i]
        i = interval(x, self.knots)
        return take(self.values, i) + (x - take(self.knots, i)) * take(self.slopes, i)
