import math

import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import at, exact_denoiser, times
from .agreement import agrees, points

S, FLOW, EDM = schedules.vp_linear(), schedules.flow(), schedules.edm()


def handed(draws):
    left = iter(draws)
    return lambda sigma_from, sigma_to: next(left)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("scaling", [0.0, 10.0])
def test_lcm_predicts_and_noises(steps, scaling):
    noise, draws, grid = points(), [points() for _ in range(4)], [*times(steps, end=0.1)[:-1], 0.0]
    model = exact_denoiser(S)
    plan = solvers.lcm(S, times=grid, prediction="sample", timestep_scaling=scaling)
    x = S.sigma(grid[0]) * noise
    for i, t in enumerate(grid[:-1]):
        x0 = model(x, at(t))
        if scaling:
            u = scaling * t
            x0 = 0.25 / (u**2 + 0.25) * x + u / math.sqrt(u**2 + 0.25) * x0
        x = x0 if i == steps - 1 else S.alpha(grid[i + 1]) * x0 + S.sigma(grid[i + 1]) * draws[i]
    more = {"noise_sampler": handed(draws)} if steps > 1 else {}
    agrees(plan.sample(model, noise, **more), x)


def test_lcm_ends_with_a_prediction_wherever_it_ends():
    model, noise = exact_denoiser(S), points()
    plan = solvers.lcm(S, times=[1.0, 0.2], prediction="sample")
    assert not plan.stochastic
    agrees(plan.sample(model, noise), model(S.sigma(1.0) * noise, at(1.0)))


@pytest.mark.parametrize("solver", [solvers.lcm, solvers.tcd, solvers.ctm])
def test_no_call_of_a_student_is_wasted_just_above_the_data(solver):
    grid = solver(EDM, 3).times
    assert grid[-1] == 0
    assert EDM.sigma(grid[-2]) > 0.05
    assert solver(EDM, 1).times == (1.0, 0.0)
    assert solver(FLOW, 2).times == (1.0, 0.5, 0.0)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_tcd_goes_further_and_comes_back(gamma):
    noise, draws, grid = points(), [points() for _ in range(4)], [1.0, 0.7, 0.4, 0.0]
    model = exact_denoiser(S)
    x = S.sigma(1.0) * noise
    for i, (s, t) in enumerate([(1.0, 0.7), (0.7, 0.4), (0.4, 0.0)]):
        x0 = model(x, at(s))
        eps = (x - S.alpha(s) * x0) / S.sigma(s)
        u = t if t == 0 else (1 - gamma) * t
        x = S.alpha(u) * x0 + S.sigma(u) * eps
        if t > 0:
            ratio = S.alpha(t) / S.alpha(u)
            x = ratio * x + math.sqrt(max(S.sigma(t) ** 2 - (ratio * S.sigma(u)) ** 2, 0.0)) * draws[i]
    plan = solvers.tcd(S, times=grid, gamma=gamma, prediction="sample")
    more = {"noise_sampler": handed(draws)} if plan.stochastic else {}
    agrees(plan.sample(model, noise, **more), x)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_ctm_is_algorithm_3(gamma):
    """In EDM's coordinates: jump to √(1 − gamma²)·sigma of the next time, then add gamma·sigma of noise."""
    noise, draws, sigmas = points(), [points() for _ in range(4)], [80.0, 20.0, 3.0, 0.5, 0.0]

    def model(x, t, to):
        assert t.shape == to.shape == (len(x),)
        return torch.tanh(x / (1 + t)) + 0.1 * to / (1 + to)

    x = sigmas[0] * noise
    for i in range(4):
        t, following = sigmas[i], sigmas[i + 1]
        s = math.sqrt(1 - gamma**2) * following
        g = model(x, torch.full((20,), t), torch.full((20,), s))
        x = s / t * x + (1 - s / t) * g
        if following:
            x = x + gamma * following * draws[i]
    plan = solvers.ctm(EDM, times=[s / 80 for s in sigmas], gamma=gamma)
    more = {"noise_sampler": handed(draws)} if plan.stochastic else {}
    agrees(plan.sample(model, noise, **more), x, 1e-6)  # the model's own constants are float32


def test_flow_map_follows_the_average_velocity():
    noise, grid = points(), [1.0, 0.6, 0.25, 0.0]

    def model(x, t, to):
        return torch.sin(x) + t - 2 * to

    x = noise
    for s, t in [(1.0, 0.6), (0.6, 0.25), (0.25, 0.0)]:
        x = x + (t - s) * (torch.sin(x) + s - 2 * t)
    agrees(solvers.flow_map(FLOW, times=grid).sample(model, noise), x)


def test_the_exact_map_needs_one_step():
    """For a Gaussian N(0, d²) the flow is x_t = x_s·v_t/v_s, v the standard deviation: one step or many, the same."""
    d, noise = 0.5, points()

    def std(t):
        return torch.sqrt(((1 - t) * d) ** 2 + t**2)

    def model(x, t, to):
        return x * (std(to) / std(t) - 1) / (to - t)

    one = solvers.flow_map(FLOW, 1).sample(model, noise)
    many = solvers.flow_map(FLOW, 7).sample(model, noise)
    agrees(one, d * noise, 1e-9)
    agrees(many, one, 1e-9)


def test_flow_map_is_for_flows():
    with pytest.raises(ValueError, match="flow_map"):
        solvers.flow_map(S, 2)


@pytest.mark.parametrize("name", ["tcd", "ctm"])
def test_bad_gamma(name):
    with pytest.raises(ValueError, match="gamma"):
        solvers.from_name(name)(EDM, 2, gamma=1.5)
