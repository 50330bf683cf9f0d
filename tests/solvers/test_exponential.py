import math

import numpy as np
import pytest
import torch

from pyaccel.solvers.exponential import moments_to_weights, psi


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
