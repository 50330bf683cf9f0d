import math

import numpy as np
import pytest

from pyaccel import scalars, schedules
from pyaccel.duals import DerivativeLost, Dual, seeds, solved, unpacked, value_of
from pyaccel.solvers.exponential import moments_to_weights, psi


def slope(f, x: float) -> float:
    """By central differences."""
    h = 1e-5 * max(1.0, abs(x))
    return (f(x + h) - f(x - h)) / (2 * h)


def assert_differentiates(f, x: float) -> None:
    (dual,) = seeds([x])
    y = f(dual)
    assert y.value == pytest.approx(f(x), rel=1e-15)
    assert float(y.slope[0]) == pytest.approx(slope(f, x), rel=1e-6, abs=1e-9)


NAMES = ["exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "arcsin", "arccos", "arctan", "arcsinh", "softplus"]


@pytest.mark.parametrize("name", NAMES)
def test_functions(name):
    for x in (0.03, 0.4, 0.9):
        assert_differentiates(getattr(scalars, name), x)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: 2 - x * x / (x + 3) + x**3,
        lambda x: np.float64(2) * x - np.float64(1) / x + (np.float64(3) - x),
        lambda x: abs(-x) * (1 - x) + 4 / x,
        lambda x: scalars.maximum(x, 0.1) * scalars.minimum(x, 5.0),
        lambda x: scalars.divide(x, 1 + x),
    ],
)
def test_arithmetic(f):
    assert_differentiates(f, 0.7)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
@pytest.mark.parametrize("h", [-2.0, 1e-3, 0.5, 0.99, 1.01, 4.0])
def test_psi(k, h):
    assert_differentiates(lambda x: psi(k, x), h)


def test_schedules():
    betas = np.linspace(1e-3, 0.03, 100)
    for s in (schedules.flow(3.0), schedules.vp_linear(), schedules.vp_cosine(), schedules.edm(), schedules.ve(),
              schedules.sub_vp(), schedules.trigflow(), schedules.vp_discrete(betas)):  # fmt: skip
        for f in (s.alpha, s.sigma, s.lam, s.model_time, lambda t, s=s: s.time_of_lam(s.lam(t) + 0.1)):
            assert_differentiates(f, 0.3317)


def test_small_linear_systems():
    values = [0.3, 1.1, 2.0, -0.5, 0.7, 0.2]
    nodes, moments = seeds(values)[:3], seeds(values)[3:]
    result, jacobian = unpacked(moments_to_weights(nodes, moments), 6)
    np.testing.assert_allclose(result, moments_to_weights(values[:3], values[3:]), rtol=1e-12)
    for i in range(6):
        up, down = list(values), list(values)
        up[i], down[i] = up[i] + 1e-6, down[i] - 1e-6
        difference = np.subtract(*(moments_to_weights(v[:3], v[3:]) for v in (up, down))) / 2e-6
        np.testing.assert_allclose(jacobian[:, i], difference, rtol=1e-5, atol=1e-8)
    assert solved([[0.0, 2.0], [1.0, 0.0]], [4.0, 3.0]) == [3.0, 2.0]
    with pytest.raises(ValueError, match="singular"):
        solved([[1.0, 1.0], [1.0, 1.0]], [1.0, 2.0])


def test_what_would_lose_the_derivative_is_refused():
    (x,) = seeds([0.5])
    for lossy in (float, np.asarray, np.log, math.exp, lambda x: x * np.ones(2), lambda x: np.ones(2) + x):
        with pytest.raises(DerivativeLost):
            lossy(x)
    with pytest.raises(TypeError):
        x + "1"
    assert value_of(x) == 0.5
    assert isinstance(1 + x, Dual)
