import json
import math

import numpy as np
import pytest
import torch

from pyaccel import schedules

from .all import ALL, PRESERVING, PURE_NOISE

T = np.array([0.001, 0.01, 0.1, 0.37, 0.5, 0.83, 0.99, 0.9993])
SCALARS = ("alpha", "sigma", "lam", "log_snr", "ratio", "model_time", "drift", "diffusion")


@pytest.fixture(params=list(ALL))
def schedule(request):
    return ALL[request.param]


def test_log_snr_and_ratio_are_those_of_alpha_and_sigma(schedule):
    expected = np.log(schedule.alpha(T)) - np.log(schedule.sigma(T))
    np.testing.assert_allclose(schedule.lam(T), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(schedule.log_snr(T), 2 * expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(schedule.ratio(T), schedule.sigma(T) / schedule.alpha(T), rtol=1e-9)


def test_inverses(schedule):
    np.testing.assert_allclose(schedule.time_of_lam(schedule.lam(T)), T, rtol=1e-7)
    np.testing.assert_allclose(schedule.time_of_log_snr(schedule.log_snr(T)), T, rtol=1e-7)
    np.testing.assert_allclose(schedule.time_of_ratio(schedule.ratio(T)), T, rtol=1e-7)
    # Where sigma is nearly 1 it says little of t: compare what it says.
    np.testing.assert_allclose(schedule.sigma(schedule.time_of_sigma(schedule.sigma(T))), schedule.sigma(T), rtol=1e-12)
    early = T[T < 0.6]
    np.testing.assert_allclose(schedule.time_of_sigma(schedule.sigma(early)), early, rtol=1e-6)


def test_inverses_take_floats_and_tensors(schedule):
    for name, of in (("lam", "lam"), ("log_snr", "log_snr"), ("ratio", "ratio"), ("sigma", "sigma")):
        values = getattr(schedule, of)(T)
        inverse = getattr(schedule, f"time_of_{name}")
        np.testing.assert_allclose([inverse(float(v)) for v in values], inverse(values), rtol=1e-12)
        np.testing.assert_allclose(inverse(torch.tensor(values)).numpy(), inverse(values), rtol=1e-9)


def test_floats_arrays_and_tensors_agree(schedule):
    for name in SCALARS:
        function = getattr(schedule, name)
        floats = [function(float(t)) for t in T]
        assert all(type(x) is float for x in floats)
        np.testing.assert_allclose(function(T), floats, rtol=1e-13)
        np.testing.assert_allclose(function(torch.tensor(T)).numpy(), floats, rtol=1e-13)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_floats_arrays_and_tensors_agree_at_the_ends_without_a_warning(schedule, t):
    with np.errstate(all="raise"):
        for name in SCALARS:
            function = getattr(schedule, name)
            value = function(t)
            assert not math.isnan(value)
            np.testing.assert_allclose(function(np.array([t])), [value], rtol=1e-13)
            np.testing.assert_allclose(function(torch.tensor([t])).numpy(), [value], rtol=1e-13)


def test_float32_times_are_computed_in_float64(schedule):
    for name in SCALARS:
        assert getattr(schedule, name)(torch.tensor([0.5])).dtype == torch.float64


def test_noise_grows_with_time(schedule):
    times = np.linspace(0, 1, 5001)[1:]
    assert np.all(np.diff(schedule.lam(times)) < 0)
    assert np.all(np.diff(schedule.sigma(times)) >= 0)


@pytest.mark.parametrize("name", PRESERVING)
def test_variance_is_preserved(name):
    np.testing.assert_allclose(ALL[name].alpha(T) ** 2 + ALL[name].sigma(T) ** 2, 1, rtol=1e-14)


@pytest.mark.parametrize("name", PURE_NOISE)
def test_pure_noise_is_exact_at_time_1(name):
    schedule = ALL[name]
    assert schedule.alpha(1.0) == 0.0
    assert schedule.lam(1.0) == -math.inf
    assert schedule.drift(1.0) == -math.inf
    assert schedule.diffusion(1.0) == math.inf
    assert schedule.time_of_lam(-math.inf) == pytest.approx(1.0, abs=1e-15)
    assert schedule.time_of_sigma(schedule.sigma(1.0)) == pytest.approx(1.0, abs=1e-7)
    assert math.isfinite(schedule.lam(schedule.t_max))


@pytest.mark.parametrize("name", [name for name in ALL if name != "ve"])
def test_data_are_exact_at_time_0(name):
    schedule = ALL[name]
    assert schedule.sigma(0.0) == 0.0
    assert schedule.alpha(0.0) == pytest.approx(1.0, abs=1e-15)
    assert schedule.lam(0.0) == math.inf
    assert schedule.time_of_lam(math.inf) == pytest.approx(0.0, abs=1e-12)
    assert math.isfinite(schedule.lam(schedule.t_min))


def test_gradient_with_respect_to_time(schedule):
    t = torch.tensor([0.2003, 0.6004, 0.9992], dtype=torch.float64, requires_grad=True)  # between vp_discrete's knots
    for name in ("alpha", "sigma", "lam", "drift", "diffusion"):
        function = getattr(schedule, name)
        if function(t).requires_grad:  # the straight lines of vp_discrete have a constant drift
            assert torch.autograd.gradcheck(function, t, atol=1e-4, rtol=1e-4), name
    inverses = lambda t: (schedule.time_of_lam(schedule.lam(t)), schedule.time_of_sigma(schedule.sigma(t)))  # noqa: E731
    for slope in torch.autograd.functional.jacobian(inverses, t[:2].detach()):
        torch.testing.assert_close(slope, torch.eye(2, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["flow", "trigflow", "vp_cosine", "vp_discrete, rescaled", "vp_linear", "edm"])
def test_gradients_of_alpha_and_sigma_are_finite_at_pure_noise(name):
    t = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((ALL[name].alpha(t) + ALL[name].sigma(t)).sum(), t)
    assert torch.isfinite(slope).all()


def test_add_noise():
    x0, noise, t = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.tensor([0.1, 0.5, 0.9])
    expected = (1 - t)[:, None, None] * x0 + t[:, None, None] * noise
    torch.testing.assert_close(schedules.flow().add_noise(x0, noise, t), expected)
    torch.testing.assert_close(schedules.flow().add_noise(x0, noise, 0.5), 0.5 * x0 + 0.5 * noise)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: schedules.flow(shift=0), "shift"),
        (lambda: schedules.trigflow(0.0), "sigma_data"),
        (lambda: schedules.vp_linear(2.0, 1.0), "vp_linear: need 0 < beta_min"),
        (lambda: schedules.sub_vp(2.0, 1.0), "sub_vp: need 0 < beta_min"),
        (lambda: schedules.edm(1.0, 2.0), "edm: need 0 < sigma_min"),
        (lambda: schedules.ve(1.0, 2.0), "ve: need 0 < sigma_min"),
        (lambda: schedules.vp_cosine(-1), "s must"),
        (lambda: schedules.from_name("vp_liner"), "did you mean 'vp_linear'"),
    ],
)
def test_bad_parameters(make, what):
    with pytest.raises(ValueError, match=what):
        make()


def test_from_name_rebuilds_a_schedule_from_json(schedule):
    again = schedules.from_name(schedule.name, **json.loads(json.dumps(schedule.parameters)))
    assert (again.t_min, again.t_max, again.parameters) == (schedule.t_min, schedule.t_max, schedule.parameters)
    for name in SCALARS:
        np.testing.assert_array_equal(getattr(again, name)(T), getattr(schedule, name)(T))


def test_every_schedule_is_registered():
    assert {schedule.name for schedule in ALL.values()} == set(schedules.SCHEDULES)
