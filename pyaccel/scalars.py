"""Scalar functions that serve floats, numpy arrays and tensors alike.

Schedules and solvers are written once. Handed floats they give float64 coefficients; handed tensors that require
gradients they give coefficients that are differentiable in learned times. ``math.expm1`` of a tensor would cut the
gradient without a word, hence this module.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch

Scalar: TypeAlias = Any
"""A float, a numpy array or a float64 tensor."""


def _dispatch(name: str, of_float, of_array, of_tensor):
    def function(x: Scalar) -> Scalar:
        if isinstance(x, torch.Tensor):
            return of_tensor(x)
        if isinstance(x, np.ndarray):
            return of_array(x)
        return of_float(x)

    function.__name__ = name
    function.__doc__ = f"{name}(x) of a float, an array or a tensor, elementwise."
    return function


exp = _dispatch("exp", math.exp, np.exp, torch.exp)
expm1 = _dispatch("expm1", math.expm1, np.expm1, torch.expm1)
log1p = _dispatch("log1p", math.log1p, np.log1p, torch.log1p)
sqrt = _dispatch("sqrt", math.sqrt, np.sqrt, torch.sqrt)
sin = _dispatch("sin", math.sin, np.sin, torch.sin)
arccos = _dispatch("arccos", math.acos, np.arccos, torch.arccos)


def _log_of_float(x: float) -> float:
    return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)


def _log_of_array(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(x)


log = _dispatch("log", _log_of_float, _log_of_array, torch.log)
"""log(x), with log(0) = -inf for floats too, as numpy and torch have it."""


def as_float64(x: Scalar) -> Scalar:
    """A float, or the array or tensor in float64 (integers included); gradients are kept."""
    if isinstance(x, torch.Tensor):
        return x.to(torch.float64)
    if isinstance(x, np.ndarray | list | tuple):
        return np.asarray(x, dtype=np.float64)
    return float(x)


def maximum(x: Scalar, low: float) -> Scalar:
    """The larger of x and ``low``, elementwise."""
    if isinstance(x, torch.Tensor):
        return x.clamp(min=low)
    return np.maximum(x, low) if isinstance(x, np.ndarray) else max(x, low)


def softplus(x: Scalar) -> Scalar:
    """log(1 + e^x) without overflow."""
    if isinstance(x, torch.Tensor):
        return torch.logaddexp(x, torch.zeros_like(x))
    if isinstance(x, np.ndarray):
        return np.logaddexp(x, 0.0)
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def interpolate(x: Scalar, knots: np.ndarray, values: np.ndarray) -> Scalar:
    """Piecewise linear interpolation through (knots, values); knots increase; straight on beyond the ends."""
    if isinstance(x, torch.Tensor):
        k = torch.as_tensor(knots, device=x.device)
        v = torch.as_tensor(values, device=x.device)
        i = torch.searchsorted(k, x.detach().contiguous()).clamp(1, len(knots) - 1)
    else:
        k, v = knots, values
        i = np.clip(np.searchsorted(k, x), 1, len(knots) - 1)
    result = v[i - 1] + (x - k[i - 1]) * ((v[i] - v[i - 1]) / (k[i] - k[i - 1]))
    return float(result) if isinstance(x, float) else result
