import math

import numpy as np
import pytest
import torch

from pyaccel import schedules

RESCALED = schedules.rescale_zero_terminal_snr(schedules.scaled_linear_betas())


def test_passes_through_the_cumulative_product():
    betas = np.linspace(1e-4, 0.02, 1000)
    schedule = schedules.vp_discrete(torch.tensor(betas))
    n = np.arange(1000)
    np.testing.assert_allclose(schedule.alpha((n + 1) / 1000) ** 2, np.cumprod(1 - betas)[n], rtol=1e-12)
    np.testing.assert_allclose(schedule.model_time((n + 1) / 1000), n, atol=1e-9)
    assert schedule.model_time(0.0) == 0.0


def test_drift_between_and_at_the_knots():
    betas = [0.1, 0.2, 0.3]
    schedule = schedules.vp_discrete(betas)
    slopes = 3 * 0.5 * np.log1p(-np.array(betas))
    # at a knot it is that of larger t, at t = 1 that of smaller t
    np.testing.assert_allclose(schedule.drift(np.array([0.0, 0.1, 1 / 3, 0.5, 2 / 3, 1.0])), slopes[[0, 0, 1, 1, 2, 2]])


def test_rescaled_betas_pass_through_the_cumulative_product():
    schedule = schedules.vp_discrete(RESCALED)
    n = np.arange(1000)
    np.testing.assert_allclose(schedule.alpha((n + 1) / 1000) ** 2, np.cumprod(1 - RESCALED)[n], rtol=1e-9)
    assert schedule.alpha(1.0) == 0
    assert schedule.sigma(1.0) == 1
    assert schedule.t_max == 0.999


def test_rescaled_betas_end_in_a_straight_line_of_alpha():
    schedule = schedules.vp_discrete(RESCALED)
    t = np.linspace(0.999, 1, 11)
    np.testing.assert_allclose(schedule.alpha(t), schedule.alpha(0.999) * np.linspace(1, 0, 11), atol=1e-15)
    np.testing.assert_allclose(schedule.drift(t[:-1]), -1 / (1 - t[:-1]))
    lam = schedule.lam(np.linspace(0.998, 1, 1001))
    assert np.all(np.diff(lam) < 0)
    assert np.all(np.isfinite(lam[:-1]))
    np.testing.assert_allclose(schedule.time_of_lam(lam), np.linspace(0.998, 1, 1001), rtol=1e-12)


@pytest.mark.parametrize(
    ("betas", "what"),
    [
        ([0.1], r"at least two numbers in \(0, 1\), got shape \(1,\)"),
        ([[0.1, 0.2]], "got shape"),
        ([0.1, 1.5], "got 1.5 at position 1 of 2"),
        ([0.1, 1.0, 0.2], "only the last may be 1; got 1.0 at position 1 of 3"),
        ([0.1, math.nan, 0.2], "got nan at position 1"),
        ([0.0, 0.1, 0.2], "got 0.0 at position 0"),
        ([0.1, 1.0], "must be at least three"),
    ],
)
def test_bad_betas(betas, what):
    with pytest.raises(ValueError, match=what):
        schedules.vp_discrete(betas)
