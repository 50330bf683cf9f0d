"""The weak order: moments of many samples against the mixture's own, with their standard errors."""

from __future__ import annotations

import torch

from pyaccel import schedules

from .. import mixture
from ..mixture import exact_denoiser, times

SAMPLES = 60_000


def data(count: int, generator: torch.Generator) -> torch.Tensor:
    """Samples of the mixture itself."""
    second = torch.rand(count, generator=generator, dtype=torch.float64) < mixture.WEIGHTS[1]
    z = torch.randn(count, generator=generator, dtype=torch.float64)
    return mixture.MEANS[second.long()] + mixture.STDS[second.long()] * z


def exact_moments() -> list[float]:
    """The mean and the second and third central moments of the mixture."""
    w, m, s = mixture.WEIGHTS, mixture.MEANS, mixture.STDS
    mean = (w * m).sum()
    d = m - mean
    return [float(v) for v in (mean, (w * (s**2 + d**2)).sum(), (w * (d**3 + 3 * d * s**2)).sum())]


def moments(x: torch.Tensor) -> tuple[list[float], list[float]]:
    """The same of a sample, and their standard errors."""
    d = x - x.mean()
    values = [x, d**2, d**3]
    return [float(v.mean()) for v in values], [float(v.std()) / len(x) ** 0.5 for v in values]


def check_moments(solver, schedule=None, counts=(16, 64), bias=2.5, samples=SAMPLES, **options) -> None:
    """Each moment lies within 4 standard errors and ``bias``/steps of the mixture's, for each number of steps.

    The run starts from the mixture noised to the first time, so that the start has no bias of its own.
    """
    schedule = schedule or schedules.vp_linear()
    exact = exact_moments()
    for count in counts:
        generator = torch.Generator().manual_seed(1)
        start = data(samples, generator)
        noise = torch.randn(samples, generator=generator, dtype=torch.float64)
        noise = noise + schedule.alpha(1.0) / schedule.sigma(1.0) * start
        plan = solver(schedule, times=times(count, end=0.0), prediction="sample", **options)
        x = plan.sample(exact_denoiser(schedule), noise, generator=generator)
        found, error = moments(x)
        shown = "  ".join(f"{f:+.4f} ± {e:.4f} ({t:+.4f})" for f, e, t in zip(found, error, exact, strict=True))
        print(f"\n{plan.solver:16s} {options!s:36s} {count:3d} steps  {shown}", end="")
        for f, e, t in zip(found, error, exact, strict=True):
            assert abs(f - t) <= 4 * e + bias / count
