import math

import numpy as np
import pytest
import torch

from pyaccel import schedules
from pyaccel.solvers.builder import Builder
from pyaccel.solvers.exponential import Exponential, moments_to_weights, psi


@pytest.mark.parametrize("k", [0, 1, 2, 3])
@pytest.mark.parametrize("h", [1e-4, 0.05, 0.9, 1.1, 6.0])
def test_psi_is_its_integral(k, h):
    nodes, weights = np.polynomial.legendre.leggauss(40)
    u = (nodes + 1) / 2 * h
    expected = np.sum(weights * h / 2 * np.exp(u - h) * (u / h) ** k) / math.factorial(k)
    assert psi(k, h) == pytest.approx(expected, rel=1e-13)


def test_psi_of_tensors_has_gradients():
    h = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: psi(2, h), h)
    h = torch.tensor(2.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: psi(2, h), h)


def test_weights_reproduce_moments():
    nodes, moments = [-2.1, -0.9, 1.0], [0.4, 0.2, 0.15]
    weights = moments_to_weights(nodes, moments)
    for i, m in enumerate(moments):
        assert sum(w * r**i for w, r in zip(weights, nodes, strict=True)) == pytest.approx(m, rel=1e-12)
    learned = moments_to_weights([torch.tensor(r, dtype=torch.float64) for r in nodes], moments)
    np.testing.assert_allclose([float(w) for w in learned], weights, rtol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_steps_with_noise_are_their_integrals(eta):
    """Both solve dx = [f·x + (1 + eta)/2·g²/sigma·eps] dt + √eta·g dw backwards, the prediction held (eq. 8 there)."""
    schedule = schedules.vp_linear()
    b = Builder(schedule, [0.7, 0.5], "sample")
    s, t = b.points
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u, w = 0.6 + 0.1 * nodes, 0.1 * weights
    alpha, sigma, g = (np.array([f(float(v)) for v in u]) for f in (schedule.alpha, schedule.sigma, schedule.diffusion))
    # Over eps the homogeneous part is f·x, so Phi(t, u) = alpha_t/alpha_u.
    phi = t.alpha / alpha
    step = Exponential(s, t, "epsilon", eta)
    assert step.scale == pytest.approx(t.alpha / s.alpha, rel=1e-12)
    assert step.weight(0) == pytest.approx(-np.sum(w * phi * (1 + eta) / 2 * g**2 / sigma), rel=1e-10)
    variance = np.sum(w * phi**2 * eta * g**2)
    assert (step.noise or 0.0) == pytest.approx(np.sqrt(variance), rel=1e-10, abs=1e-15)
    # Over x0, eps = (x - alpha·x0)/sigma adds to the homogeneous part: Phi = sigma_t/sigma_u·e^(-eta·(lam_t - lam_u)).
    lam = np.log(alpha / sigma)
    phi = t.sigma / sigma * np.exp(-eta * (t.lam - lam))
    step = Exponential(s, t, "sample", eta)
    assert step.scale == pytest.approx(t.sigma / s.sigma * np.exp(-eta * (t.lam - s.lam)), rel=1e-12)
    assert step.weight(0) == pytest.approx(np.sum(w * phi * (1 + eta) / 2 * g**2 * alpha / sigma**2), rel=1e-10)
    variance = np.sum(w * phi**2 * eta * g**2)
    assert (step.noise or 0.0) == pytest.approx(np.sqrt(variance), rel=1e-10, abs=1e-15)
