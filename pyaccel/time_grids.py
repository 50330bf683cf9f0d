"""Time grids: the N + 1 times, falling from noise to data, between which a solver with N steps moves.

Each grid is a function ``(schedule, steps, start, end) -> list of steps + 1 floats``. Where a spacing needs a finite
log-SNR and the schedule has none at its ends, points are spaced between ``schedule.t_max`` and ``schedule.t_min``,
the first is moved to ``start``, and a last step leads from there to ``end``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from .names import look_up
from .schedules import Schedule

Grid = Callable[..., list[float]]


def uniform(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    """Equal steps in t."""
    return np.linspace(start, end, steps + 1).tolist()


def quadratic(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    """Equal steps in √t: denser towards the data (Song et al. 2021, DDIM, appendix D.2)."""
    inner = np.linspace(math.sqrt(start), math.sqrt(end), steps + 1)[1:-1] ** 2
    return [start, *inner.tolist(), end]


def log_snr(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    """Equal steps in log-SNR (Lu et al. 2022, DPM-Solver, section 3.4)."""
    return _spaced(schedule, steps, start, end, schedule.lam, schedule.time_of_lam)


def karras(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0, rho: float = 7.0) -> list[float]:
    """Equal steps in (sigma/alpha)^(1/rho) (Karras et al. 2022, eq. 5)."""
    return _spaced(
        schedule,
        steps,
        start,
        end,
        lambda t: math.exp(-schedule.lam(t) / rho),
        lambda u: schedule.time_of_lam(-rho * math.log(u)),
    )


def _spaced(schedule: Schedule, steps: int, start: float, end: float, to: Callable, back: Callable) -> list[float]:
    """Equal steps in to(t), from start (or t_max, where log-SNR ends) to end (or t_min, and then one step more)."""
    first = start if math.isfinite(schedule.lam(start)) else min(start, schedule.t_max)
    extra = not math.isfinite(schedule.lam(end))
    last = max(end, schedule.t_min) if extra else end
    count = steps if extra else steps + 1
    if count == 1:
        return [start, end]
    times = [float(back(u)) for u in np.linspace(to(first), to(last), count)]
    times[0] = start
    return [*times, end] if extra else [*times[:-1], end]


GRIDS: dict[str, Grid] = {"uniform": uniform, "quadratic": quadratic, "log_snr": log_snr, "karras": karras}


def make(
    schedule: Schedule, steps: int, grid: str | Grid = "uniform", start: float = 1.0, end: float = 0.0
) -> list[float]:
    """``steps`` + 1 checked times by a grid's name or by a function like the ones above."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
    if isinstance(grid, str):
        grid = look_up("grid", grid, GRIDS)
    return check(grid(schedule, steps, start, end))


def check(times: Sequence[float]) -> list[float]:
    """The times as floats; ValueError unless there are at least two, finite, falling strictly, within [0, 1]."""
    times = [float(t) for t in times]
    if len(times) < 2:
        raise ValueError(f"times must hold at least two values (N steps need N + 1), got {times}")
    if not all(math.isfinite(t) and 0 <= t <= 1 for t in times):
        raise ValueError(f"times must lie in [0, 1], from noise at 1 to data at 0; got {times}")
    for a, b in itertools.pairwise(times):
        if not a > b:
            raise ValueError(f"times must fall strictly from noise to data; got {a} followed by {b}")
    return times
