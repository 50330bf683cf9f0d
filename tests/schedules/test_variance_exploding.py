import math

import numpy as np

from pyaccel import schedules

T = np.array([0.01, 0.3, 0.99])


def test_edm_is_dx_equals_sqrt_2_sigma_dw_in_sigma():
    """Karras et al. 2022, eq. 6 with sigma as the time: g² dt = 2·sigma d(sigma), and no drift."""
    schedule = schedules.edm(80.0)
    np.testing.assert_allclose(schedule.model_time(T), 80 * T)
    np.testing.assert_allclose(schedule.diffusion(T) ** 2, 2 * schedule.sigma(T) * 80)
    assert np.all(schedule.drift(T) == 0)


def test_ve_is_equation_30():
    """dx = sigma_min·(sigma_max/sigma_min)^t·√(2·log(sigma_max/sigma_min)) dw."""
    schedule = schedules.ve(50.0, 0.01)
    np.testing.assert_allclose(schedule.sigma(T), 0.01 * 5000**T)
    np.testing.assert_allclose(schedule.diffusion(T), 0.01 * 5000**T * math.sqrt(2 * math.log(5000)))
    assert np.all(schedule.drift(T) == 0)
