import math

import numpy as np
import pytest
import torch

from pyaccel import schedules

ALL = {
    "flow": schedules.flow(),
    "flow, shifted": schedules.flow(shift=3.0),
    "vp_linear": schedules.vp_linear(),
    "vp_cosine": schedules.vp_cosine(),
    "vp_discrete": schedules.vp_discrete(np.linspace(1e-4, 0.02, 1000)),
    "edm": schedules.edm(),
    "ve": schedules.ve(),
}
T = np.array([0.001, 0.01, 0.1, 0.37, 0.5, 0.83, 0.99])


@pytest.fixture(params=list(ALL))
def schedule(request):
    return ALL[request.param]


def test_log_snr_is_that_of_alpha_and_sigma(schedule):
    expected = 2 * (np.log(schedule.alpha(T)) - np.log(schedule.sigma(T)))
    np.testing.assert_allclose(schedule.log_snr(T), expected, rtol=1e-9, atol=1e-9)


def test_inverses(schedule):
    np.testing.assert_allclose(schedule.time_of_lam(schedule.lam(T)), T, rtol=1e-7)
    np.testing.assert_allclose(schedule.time_of_log_snr(schedule.log_snr(T)), T, rtol=1e-7)


def test_floats_arrays_and_tensors_agree(schedule):
    for name in ("alpha", "sigma", "lam", "log_snr", "model_time"):
        function = getattr(schedule, name)
        floats = [function(float(t)) for t in T]
        assert all(type(x) is float for x in floats)
        np.testing.assert_allclose(function(T), floats, rtol=1e-13)
        np.testing.assert_allclose(function(torch.tensor(T)).numpy(), floats, rtol=1e-13)


def test_float32_times_are_computed_in_float64(schedule):
    assert schedule.alpha(torch.tensor([0.5])).dtype == torch.float64


def test_noise_grows_with_time(schedule):
    assert np.all(np.diff(schedule.log_snr(T)) < 0)


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine", "vp_discrete"])
def test_variance_is_preserved(name):
    np.testing.assert_allclose(ALL[name].alpha(T) ** 2 + ALL[name].sigma(T) ** 2, 1, rtol=1e-14)


def test_ends_are_exact():
    for name in ("flow", "flow, shifted", "vp_cosine"):
        assert ALL[name].alpha(1.0) == 0.0
        assert ALL[name].lam(1.0) == -math.inf
    for name in ("flow", "vp_linear", "vp_cosine", "vp_discrete", "edm"):
        assert ALL[name].sigma(0.0) == 0.0
        assert ALL[name].alpha(0.0) == pytest.approx(1.0, abs=1e-15)
        assert ALL[name].lam(0.0) == math.inf


def test_vp_linear_is_the_integral_of_its_beta():
    t = np.linspace(0, 0.7, 20001)
    beta = 0.1 + t * 19.9
    integral = np.sum((beta[1:] + beta[:-1]) / 2 * np.diff(t))
    assert schedules.vp_linear().alpha(0.7) == pytest.approx(math.exp(-0.5 * integral), rel=1e-8)


def test_vp_discrete_passes_through_the_cumulative_product():
    betas = np.linspace(1e-4, 0.02, 1000)
    schedule = schedules.vp_discrete(torch.tensor(betas))
    n = np.array([0, 1, 499, 999])
    np.testing.assert_allclose(schedule.alpha((n + 1) / 1000) ** 2, np.cumprod(1 - betas)[n], rtol=1e-12)
    np.testing.assert_allclose(schedule.model_time((n + 1) / 1000), n, atol=1e-9)


def test_shift_moves_towards_noise():
    assert schedules.flow(shift=3.0).sigma(0.5) == pytest.approx(0.75)
    assert schedules.flow(shift=3.0).model_time(0.5) == pytest.approx(0.75)


def test_add_noise():
    x0, noise, t = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.tensor([0.1, 0.5, 0.9])
    expected = (1 - t)[:, None, None] * x0 + t[:, None, None] * noise
    torch.testing.assert_close(schedules.flow().add_noise(x0, noise, t), expected)


def test_gradient_with_respect_to_time(schedule):
    t = torch.tensor([0.2003, 0.6004], dtype=torch.float64, requires_grad=True)  # between vp_discrete's knots
    assert torch.autograd.gradcheck(lambda t: (schedule.alpha(t), schedule.sigma(t), schedule.lam(t)), t)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: schedules.flow(shift=0), "shift"),
        (lambda: schedules.vp_linear(2.0, 1.0), "beta_min"),
        (lambda: schedules.vp_discrete([0.1, 1.5]), "betas"),
        (lambda: schedules.edm(1.0, 2.0), "sigma_min"),
        (lambda: schedules.vp_cosine(-1), "s must"),
        (lambda: schedules.from_name("vp_liner"), "did you mean 'vp_linear'"),
    ],
)
def test_bad_parameters(make, what):
    with pytest.raises(ValueError, match=what):
        make()


def test_from_name_rebuilds_a_schedule(schedule):
    again = schedules.from_name(schedule.name, **schedule.parameters)
    np.testing.assert_array_equal(again.alpha(T), schedule.alpha(T))
