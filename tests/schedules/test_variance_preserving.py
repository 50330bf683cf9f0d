import math

import numpy as np
import pytest

from pyaccel import schedules


def test_vp_linear_is_the_integral_of_its_beta():
    t = np.linspace(0, 0.7, 20001)
    beta = 0.1 + t * 19.9
    integral = np.sum((beta[1:] + beta[:-1]) / 2 * np.diff(t))
    assert schedules.vp_linear().alpha(0.7) == pytest.approx(math.exp(-0.5 * integral), rel=1e-8)
    np.testing.assert_allclose(schedules.vp_linear().drift(t), -0.5 * beta)
    np.testing.assert_allclose(schedules.vp_linear().diffusion(t), np.sqrt(beta))


def test_vp_cosine_is_equation_17():
    t = np.linspace(0, 1, 101)
    expected = np.cos(math.pi / 2 * (t + 0.008) / 1.008) / np.cos(math.pi / 2 * 0.008 / 1.008)
    np.testing.assert_allclose(schedules.vp_cosine().alpha(t), expected, rtol=1e-12, atol=1e-15)


def test_sub_vp_is_equation_29():
    schedule = schedules.sub_vp()
    t = np.linspace(0.01, 1, 50)
    integral = 0.1 * t + 19.9 * t**2 / 2
    np.testing.assert_allclose(schedule.alpha(t), np.exp(-integral / 2))
    np.testing.assert_allclose(schedule.sigma(t), 1 - np.exp(-integral), rtol=1e-12)
    np.testing.assert_allclose(schedule.diffusion(t) ** 2, (0.1 + 19.9 * t) * (1 - np.exp(-2 * integral)))
    assert np.all(schedule.sigma(t) < schedules.vp_linear().sigma(t))
