"""AMED-Solver against a plain loop over rho = sigma/alpha, untrained and with numbers of its own in each step."""

import math

import pytest
import torch

from pyaccel import schedules, solvers
from pyaccel.solvers import TrainablePlan

from ..mixture import at, exact_denoiser, times
from .agreement import STEPS, agrees, points
from .convergence import in_log_snr, slope

S = schedules.vp_linear()
NAMES = "r", "a", "c"


def loop(times, model, noise, numbers):
    """The algorithm of zju-pi/diff-sampler: y = x/alpha over rho; ``numbers`` are (r, a, c) of each step."""
    y = S.ratio(times[0]) * noise

    def eps(y, t, told):
        return (y - model(S.alpha(t) * y, at(told))) / S.ratio(t)

    for i, (r, a, c) in enumerate(numbers):
        here, there = S.ratio(times[i]), S.ratio(times[i + 1])
        if there > 0:
            rho = there**r * here ** (1 - r)
            u = float(S.time_of_lam(-math.log(rho)))
        else:
            u = (1 - r) * times[i] + r * times[i + 1]
            rho = S.ratio(u)
        middle = y + (rho - here) * eps(y, times[i], times[i])
        y = y + c * (there - here) * eps(middle, u, a * u)
    return S.alpha(times[-1]) * y


@pytest.mark.parametrize("end", [0.02, 0.0])
@pytest.mark.parametrize("steps", STEPS)
def test_is_the_plain_loop(steps, end):
    noise, model, grid = points(), exact_denoiser(S), times(steps, end=end)
    plan = solvers.amed(S, times=grid, prediction="sample")
    assert plan.calls == 2 * steps
    agrees(plan.sample(model, noise), loop(grid, model, noise, [(0.5, 1.0, 1.0)] * steps))


@pytest.mark.parametrize("end", [0.02, 0.0])
def test_trained_it_is_the_loop_with_its_numbers(end):
    noise, model, grid = points(), exact_denoiser(S), times(4, end=end)
    trainable = TrainablePlan(solvers.amed(S, times=grid, prediction="sample"), learn=["named"])
    numbers = [(0.3, 1.01, 1.1), (0.6, 0.9, 0.9), (0.5, 1.05, 1.05), (0.7, 0.8, 0.98)]
    learned = iter(p for r, a, c in numbers for p in (math.log(r / (1 - r)), math.log(a), c - 1))
    with torch.no_grad():
        for i, (_, name) in enumerate(trainable.coefficient_names):
            if name in NAMES:
                trainable.coefficients[i] = next(learned)
    agrees(trainable.plan().sample(model, noise), loop(grid, model, noise, numbers))


def test_training_moves_three_numbers_a_step():
    trainable = TrainablePlan(solvers.amed(schedules.flow(), 3), learn=["named"])
    assert trainable.learned_numbers == 3 * 3
    model = exact_denoiser(schedules.flow(), "flow")
    trainable(model, points()).square().sum().backward()
    for (_, name), gradient in zip(trainable.coefficient_names, trainable.coefficients.grad, strict=True):
        assert (gradient != 0) == (name in NAMES)
    with pytest.raises(ValueError, match="and named; got nothing"):
        trainable.learn(["nothing"])


def test_order_of_convergence():
    assert 1.7 <= slope(solvers.amed, S, grid=in_log_snr(S)) <= 2.5
