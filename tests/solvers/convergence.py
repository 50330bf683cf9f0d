"""The measured order of convergence on the exact Gaussian mixture."""

from __future__ import annotations

import functools

import numpy as np
import torch

from pyaccel import solvers

from ..mixture import exact_denoiser, times

COUNTS = (80, 160, 320, 640)


@functools.cache
def _truth(schedule_name: str) -> tuple[torch.Tensor, torch.Tensor]:
    from pyaccel import schedules

    schedule = schedules.from_name(schedule_name)
    noise = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)
    plan = solvers.unipc(schedule, times=times(3000), order=3, prediction="sample", lower_order_final=False)
    return noise, plan.sample(exact_denoiser(schedule), noise)


def slope(function, schedule, **options) -> float:
    """Minus the slope of log error over log steps, by least squares over :data:`COUNTS`."""
    noise, truth = _truth(schedule.name)
    errors = []
    for count in COUNTS:
        plan = function(schedule, times=times(count), prediction="sample", lower_order_final=False, **options)
        errors.append(float((plan.sample(exact_denoiser(schedule), noise) - truth).abs().mean()))
    return -float(np.polyfit(np.log(COUNTS), np.log(errors), 1)[0])
