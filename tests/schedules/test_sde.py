"""drift and diffusion against derivatives, integrals and moments that know nothing of them but alpha and sigma."""

import itertools

import numpy as np
import pytest
import torch

from pyaccel import schedules

from ..tolerances import ROUNDING
from .all import ALL, knots


@pytest.fixture(params=list(ALL))
def schedule(request):
    return ALL[request.param]


def middles(schedule: schedules.Schedule) -> tuple[np.ndarray, np.ndarray]:
    """Times in the middle between knots, away from the ends, and half the room around them."""
    edges = knots(schedule)
    if len(edges) == 2:
        edges = np.linspace(0.01, 0.99, 30)
    return (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2


def derivative(function, t: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The central difference of eighth order."""
    h = room / 8
    weights = [4 / 5, -1 / 5, 4 / 105, -1 / 280]
    return sum(w * (function(t + k * h) - function(t - k * h)) for k, w in enumerate(weights, 1)) / h


def test_drift_is_the_derivative_of_log_alpha(schedule):
    t, room = middles(schedule)
    expected = derivative(lambda t: np.log(schedule.alpha(t)), t, room)
    np.testing.assert_allclose(schedule.drift(t), expected, rtol=1e-5, atol=1e-9)


def test_squared_diffusion_is_what_the_variance_asks_for(schedule):
    t, room = middles(schedule)
    slope = derivative(lambda t: schedule.sigma(t) ** 2, t, room)
    drift = derivative(lambda t: np.log(schedule.alpha(t)), t, room)
    np.testing.assert_allclose(schedule.diffusion(t) ** 2, slope - 2 * drift * schedule.sigma(t) ** 2, rtol=1e-5)


def test_drift_integrates_to_log_alpha(schedule):
    edges = knots(schedule)[:-1]
    edges = np.linspace(0, 0.9, 10) if len(edges) == 1 else edges
    x, w = np.polynomial.legendre.leggauss(12)
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    pieces = (schedule.drift(middle[:, None] + half[:, None] * x) * w).sum(1) * half
    np.testing.assert_allclose(np.cumsum(pieces), np.log(schedule.alpha(edges[1:])), rtol=1e-7, atol=1e-12)


def test_moments_of_the_forward_sde_are_alpha_and_sigma(schedule):
    """dm/dt = f·m and dP/dt = 2·f·P + g², by the Runge-Kutta method of fourth order, between the knots."""
    inner = knots(schedule)
    inner = inner[(inner > 0.05) & (inner < 0.95)]
    edges = [0.05, *inner, 0.95]
    mean, variance = schedule.alpha(0.05), schedule.sigma(0.05) ** 2
    inside = 1e-13  # derivatives jump at the knots: stay within

    def slopes(t, m, p, a, b):
        t = min(max(t, a + inside), b - inside)
        return schedule.drift(t) * m, 2 * schedule.drift(t) * p + schedule.diffusion(t) ** 2

    for a, b in itertools.pairwise(edges):
        steps = max(1, round((b - a) * 1000))
        h = (b - a) / steps
        for k in range(steps):
            t = a + k * h
            k1 = slopes(t, mean, variance, a, b)
            k2 = slopes(t + h / 2, mean + h / 2 * k1[0], variance + h / 2 * k1[1], a, b)
            k3 = slopes(t + h / 2, mean + h / 2 * k2[0], variance + h / 2 * k2[1], a, b)
            k4 = slopes(t + h, mean + h * k3[0], variance + h * k3[1], a, b)
            mean += h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
            variance += h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
    assert mean == pytest.approx(schedule.alpha(0.95), rel=1e-6)
    assert variance == pytest.approx(schedule.sigma(0.95) ** 2, rel=1e-6)


MEAN, STD = 0.7, 0.4
"""Of Gaussian data, for which p_t is Gaussian with mean alpha·MEAN and variance (alpha·STD)² + sigma²."""


def score(schedule, x, t):
    variance = (schedule.alpha(t) * STD) ** 2 + schedule.sigma(t) ** 2
    return (schedule.alpha(t) * MEAN - x) / variance


def test_probability_flow_carries_a_gaussian_onto_itself(schedule):
    """x_t = alpha·MEAN + s(t)·z solves the ODE for every z, with s² the variance of p_t."""
    t, room = middles(schedule)
    z = np.random.default_rng(0).normal(size=t.shape)

    def path(t):
        return schedule.alpha(t) * MEAN + np.sqrt((schedule.alpha(t) * STD) ** 2 + schedule.sigma(t) ** 2) * z

    x = torch.tensor(path(t))
    velocity = schedule.probability_flow(x, torch.tensor(t), torch.tensor(score(schedule, path(t), t)))
    np.testing.assert_allclose(velocity.numpy(), derivative(path, t, room), rtol=1e-5, atol=1e-6)


def test_reverse_sde_has_the_same_marginals(schedule):
    """With the score of a Gaussian its drift is linear, A·x + c: so dP/dt = 2·A·P − g² has to be the slope of P, and
    dm/dt = A·m + c that of m (time runs backwards, hence the sign of g²)."""
    t, room = middles(schedule)

    def mean(t):
        return schedule.alpha(t) * MEAN

    def variance(t):
        return (schedule.alpha(t) * STD) ** 2 + schedule.sigma(t) ** 2

    def drift(x):
        return schedule.reverse_sde(torch.tensor(x), torch.tensor(t), torch.tensor(score(schedule, x, t)))[0].numpy()

    slope = drift(mean(t) + 1.0) - drift(mean(t))
    g = schedule.diffusion(t)
    np.testing.assert_allclose(drift(mean(t)), derivative(mean, t, room), rtol=1e-5, atol=1e-6)
    expected = derivative(variance, t, room)
    np.testing.assert_allclose(2 * slope * variance(t) - g**2, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("time", [0.3, torch.tensor(0.3), torch.tensor([0.3, 0.8])], ids=["float", "0-d", "[B]"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_shapes_and_dtypes_of_the_sdes(time, dtype):
    schedule = schedules.vp_linear()
    x, s = torch.randn(2, 3, 5, dtype=dtype), torch.randn(2, 3, 5, dtype=dtype)
    t = torch.as_tensor(time, dtype=torch.float64).expand(2)[:, None, None]
    f, g = schedule.drift(t), schedule.diffusion(t).expand(2, 3, 5)
    forward, g_forward = schedule.forward_sde(x, time)
    reverse, g_reverse = schedule.reverse_sde(x, time, s)
    flow = schedule.probability_flow(x, time, s)

    def check(result, of_x, of_score):
        assert result.dtype == dtype
        first, second = of_x * x.double(), of_score * s.double()
        assert ((result - (first + second)).abs() <= 4 * ROUNDING[dtype] * (first.abs() + second.abs())).all()

    check(forward, f, torch.zeros_like(g))
    check(reverse, f, -(g**2))
    check(flow, f, -0.5 * g**2)
    for diffusion in (g_forward, g_reverse):
        assert isinstance(diffusion, float) == isinstance(time, float)
        broadcast = torch.as_tensor(diffusion, dtype=torch.float64).expand(2, 3, 5)
        torch.testing.assert_close(broadcast, g, rtol=2 * ROUNDING[dtype], atol=0)


def test_times_that_do_not_fit_the_samples():
    with pytest.raises(ValueError, match=r"one time per sample of x \[2, 3\], got \[3\]"):
        schedules.flow().forward_sde(torch.zeros(2, 3), torch.tensor([0.1, 0.2, 0.3]))


def test_gradients_pass_through_the_score():
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, t: schedules.trigflow().probability_flow(x, t, torch.sin(x)), (x, t))
