import math

import numpy as np
import pytest

from pyaccel import schedules

T = np.array([0.01, 0.3, 0.5, 0.83, 0.99])


def test_shift_moves_towards_noise():
    assert schedules.flow(shift=3.0).sigma(0.5) == pytest.approx(0.75)
    assert schedules.flow(shift=3.0).model_time(0.5) == pytest.approx(0.75)


def test_exponential_shift_is_that_of_flux():
    """FLUX's time_shift(mu, t) = e^mu / (e^mu + 1/t − 1)."""
    mu = 0.83
    np.testing.assert_allclose(schedules.flow(math.exp(mu)).sigma(T), math.exp(mu) / (math.exp(mu) + 1 / T - 1))


def test_shift_of_tokens_is_that_of_flux():
    assert schedules.shift_of_tokens(256) == pytest.approx(math.exp(0.5))
    assert schedules.shift_of_tokens(4096) == pytest.approx(math.exp(1.15))
    assert schedules.shift_of_tokens(2176) == pytest.approx(math.exp((0.5 + 1.15) / 2))
    assert schedules.shift_of_tokens(300, 100, 500, 1.0, 2.0) == pytest.approx(math.exp(1.5))


def test_shift_of_tokens_is_that_of_the_pipeline_in_diffusers():
    pipeline = pytest.importorskip("diffusers.pipelines.flux.pipeline_flux")
    for tokens in (256, 1000, 4096, 9216):
        assert math.log(schedules.shift_of_tokens(tokens)) == pytest.approx(pipeline.calculate_shift(tokens))


def test_shift_of_resolution_is_that_of_stable_diffusion_3():
    """Esser et al. 2024, eq. 23: equally uncertain are t_n at n and t_m at m pixels with t/(1 − t)/√pixels the same."""
    n, m = 512 * 512, 1024 * 1024
    shift = schedules.shift_of_resolution(m, n)
    s = schedules.flow(shift).sigma(T)
    np.testing.assert_allclose((1 - s) / s * math.sqrt(m), (1 - T) / T * math.sqrt(n))


def test_shifted_sigmas_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    np.testing.assert_allclose(schedules.flow(3.0).sigma(np.arange(1000, 0, -1) / 1000), theirs.sigmas, rtol=1e-5)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_trigflow_is_a_rotation(sigma_data):
    schedule = schedules.trigflow(sigma_data)
    angle = schedule.model_time(T)
    np.testing.assert_allclose(angle, T * math.pi / 2)
    np.testing.assert_allclose(schedule.alpha(T), np.cos(angle))
    np.testing.assert_allclose(schedule.sigma(T), sigma_data * np.sin(angle))
    # data of standard deviation sigma_data keep it
    np.testing.assert_allclose((schedule.alpha(T) * sigma_data) ** 2 + schedule.sigma(T) ** 2, sigma_data**2)


def test_trigflow_has_the_noise_levels_of_edm():
    """tan(angle)·sigma_data is EDM's sigma (Lu & Song 2024, appendix A); t_min and t_max are those of 0.002 and 80."""
    schedule = schedules.trigflow(0.5)
    np.testing.assert_allclose(schedule.ratio(T), 0.5 * np.tan(T * math.pi / 2))
    assert schedule.ratio(schedule.t_max) == pytest.approx(80)
    assert schedule.ratio(schedule.t_min) == pytest.approx(0.002)


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.shift_of_tokens(0),
        lambda: schedules.shift_of_tokens(256, 256, 256),
        lambda: schedules.shift_of_resolution(1024, 0),
        lambda: schedules.flow(math.nan),
    ],
)
def test_bad_parameters(make):
    with pytest.raises(ValueError, match=r"positive|need tokens"):
        make()
