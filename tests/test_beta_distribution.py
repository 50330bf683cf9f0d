import math

import mpmath
import numpy as np
import pytest

from pyaccel.beta_distribution import beta_quantile

P = np.array([0.0, 1e-9, 1e-3, 0.1, 0.4999, 0.5, 0.77, 0.999, 1 - 1e-9, 1.0])


def test_quantiles_in_closed_form():
    np.testing.assert_allclose(beta_quantile(P, 1, 1), P, rtol=1e-12)
    np.testing.assert_allclose(beta_quantile(P, 0.5, 0.5), np.sin(np.pi * P / 2) ** 2, rtol=1e-12)
    np.testing.assert_allclose(beta_quantile(P, 3, 1), np.cbrt(P), rtol=1e-12)
    np.testing.assert_allclose(1 - beta_quantile(P, 1, 0.6), (1 - P) ** (1 / 0.6), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.3, 0.9), (2.5, 0.7), (5.0, 8.0), (40.0, 3.0)])
def test_quantiles_invert_the_incomplete_beta_function(a, b):
    for p, x in zip(P[1:-1], beta_quantile(P, a, b)[1:-1], strict=True):
        with mpmath.workdps(40):
            again = mpmath.betainc(a, b, 0, mpmath.mpf(float(x)), regularized=True)
        assert float(again) == pytest.approx(p, rel=1e-9)


def test_ends_and_symmetry():
    x = beta_quantile(np.linspace(0, 1, 1001), 0.6, 0.6)
    assert (x[0], x[-1]) == (0.0, 1.0)
    assert np.all(np.diff(x) > 0)
    np.testing.assert_allclose(x, 1 - x[::-1], atol=1e-14)


def test_quantiles_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    np.testing.assert_allclose(beta_quantile(P, 0.6, 0.6), stats.beta.ppf(P, 0.6, 0.6), rtol=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (1.0, -1.0), (math.inf, 1.0), (math.nan, 1.0)])
def test_bad_parameters(a, b):
    with pytest.raises(ValueError, match="a and b must be positive"):
        beta_quantile(P, a, b)
