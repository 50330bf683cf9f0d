"""The measured order of convergence on the exact Gaussian mixture, against a truth that no solver was asked for."""

from __future__ import annotations

import functools

import numpy as np
import torch

from .. import mixture
from ..mixture import exact_denoiser, times

COUNTS = (20, 40, 80, 160)


def truth(schedule, noise: torch.Tensor, start: float = 1.0, end: float = 0.02) -> torch.Tensor:
    """Where the probability-flow ODE leads sigma(start)·noise, by quantiles and bisection.

    In one dimension the flow keeps the order of points, so it keeps their quantiles: F_end(x_end) = F_start(x_start)
    with F_t the distribution function of the mixture at time t.
    """

    def distribution(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        std = torch.sqrt((alpha * mixture.STDS) ** 2 + sigma**2)
        each = 0.5 * torch.erfc(-(x[..., None] - alpha * mixture.MEANS) / std / 2**0.5)
        return (mixture.WEIGHTS * each).sum(-1)

    wanted = distribution(schedule.sigma(start) * noise, start)
    low, high = torch.full_like(noise, -10.0), torch.full_like(noise, 10.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = distribution(middle, end) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


@functools.cache
def _points(schedule_name: str, start: float, end: float) -> tuple[torch.Tensor, torch.Tensor]:
    from pyaccel import schedules

    noise = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)
    return noise, truth(schedules.from_name(schedule_name), noise, start, end)


def errors(function, schedule, counts=COUNTS, grid=times, start=1.0, end=0.02, **options) -> list[float]:
    """Mean absolute error after each number of steps; ``grid(steps, start, end)`` are the times."""
    noise, exact = _points(schedule.name, start, end)
    options = {"prediction": "sample", "lower_order_final": False, **options}
    result = []
    for count in counts:
        plan = function(schedule, times=grid(count, start, end), **options)
        result.append(float((plan.sample(exact_denoiser(schedule), noise) - exact).abs().mean()))
    return result


def slope(function, schedule, counts=COUNTS, **options) -> float:
    """Minus the slope of log error over log steps, by least squares over ``counts``."""
    found = errors(function, schedule, counts, **options)
    result = -float(np.polyfit(np.log(counts), np.log(found), 1)[0])
    shown = ", ".join(f"{k}={v}" for k, v in options.items() if not callable(v))
    print(
        f"\n{function.__name__:12s} {shown:44s} slope {result:5.2f}  errors {found[0]:.1e} to {found[-1]:.1e}", end=""
    )
    return result


def in_log_snr(schedule):
    """A grid of equal steps in log-SNR, for :func:`errors`."""

    def grid(steps, start, end):
        lams = np.linspace(schedule.lam(start), schedule.lam(end), steps + 1)
        return [start, *(schedule.time_of_lam(float(lam)) for lam in lams[1:-1]), end]

    return grid


def in_ratio(schedule):
    """A grid of equal steps in sigma/alpha."""

    def grid(steps, start, end):
        ratios = np.linspace(schedule.ratio(start), schedule.ratio(end), steps + 1)
        return [start, *(schedule.time_of_ratio(float(r)) for r in ratios[1:-1]), end]

    return grid
