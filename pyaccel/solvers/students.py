"""Samplers of few-step students: consistency models and their kin, and maps between two times."""

from __future__ import annotations

import math

from .. import time_grids
from ..scalars import sqrt
from ..schedules import Schedule
from .builder import Builder, Point, Value
from .ddim import transfer
from .family import solver
from .settings import natural_grid, not_negative


def student_grid(schedule: Schedule, steps: int, start: float, end: float) -> list[float]:
    """The schedule's natural grid without its short last step from t_min: a call there would change nothing."""
    grid = time_grids.GRIDS[natural_grid(schedule)]
    times = grid(schedule, steps, start, end)
    if steps > 1 and end < times[-2] <= schedule.t_min:
        times = grid(schedule, steps + 1, start, end)
        del times[-2]
    return times


@solver(paper="Song et al. 2023, arXiv 2303.01469, Algorithm 1; Luo et al. 2023, arXiv 2310.04378 (LCM)",
        order="student", stochastic=True, students=True, grid=student_grid)  # fmt: skip
def lcm(b: Builder, sigma_data: float = 0.5, timestep_scaling: float = 0.0):
    """Consistency multistep: predict x0, add fresh noise to the next level; the last prediction is the sample.

    ``timestep_scaling`` other than 0 applies the boundary condition of latent consistency models outside the network:
    x0 ← c_skip·x + c_out·x0 with c_skip = d²/(u² + d²), c_out = u/√(u² + d²), d = ``sigma_data`` and u =
    ``timestep_scaling`` times the model's time (LCM: 10, with times up to 999).
    """
    x = b.noise()
    for s, t in b.intervals():
        m = b.predict(x, s)
        if timestep_scaling:
            u = timestep_scaling * s.model_time
            norm = u * u + sigma_data * sigma_data
            m = (sigma_data * sigma_data / norm) * x + (u / sqrt(norm)) * m
        x = m if t is b.points[-1] else t.alpha * m + t.sigma * b.gaussian(s, t)
    return x


@solver(paper="Zheng et al. 2024, arXiv 2402.19159, Algorithm 4", order="student", stochastic=True, students=True,
        grid=student_grid)  # fmt: skip
def tcd(b: Builder, gamma: float = 0.3):
    """TCD's strategic stochastic sampling: to less noise than the next level's along the trajectory, then noise.

    The student leads to the time (1 − gamma)·t; from there noise is added to the level of t. ``gamma`` 0 is
    deterministic, 1 is :func:`lcm`. The last step is without noise.
    """
    _check_gamma("tcd", gamma)
    x = b.noise()
    for s, t in b.intervals():
        m = b.predict(x, s)
        if t is b.points[-1] or gamma == 0:
            x = transfer(b, x, m, s, t, "sample")
            continue
        u = b.point(t=(1 - gamma) * t.t)
        x = _with_noise(b, transfer(b, x, m, s, u, "sample"), u, t, s)
    return x


@solver(paper="Kim et al. 2024, arXiv 2310.02279, Algorithm 3 and eq. 9", order="student", stochastic=True,
        students=True, grid=student_grid)  # fmt: skip
def ctm(b: Builder, gamma: float = 0.0):
    """CTM's gamma-sampling: jump to √(1 − gamma²) of the next noise level, then add gamma of it as fresh noise.

    The model is called as ``model(x, t, to=s, ...)`` with the time s that the jump leads to and predicts x0 for it;
    the jump is (s/t)·x + (1 − s/t)·x0 in sigma/alpha (eq. 9). ``gamma`` 0 is deterministic, 1 fully stochastic.
    """
    _check_gamma("ctm", gamma)
    x = b.noise()
    for s, t in b.intervals():
        if t is b.points[-1] or gamma == 0:
            x = transfer(b, x, b.predict(x, s, to=t), s, t, "sample")
            continue
        u = b.point(t=0.0) if gamma == 1 else b.point(lam=t.lam - 0.5 * math.log1p(-gamma * gamma))
        x = _with_noise(b, transfer(b, x, b.predict(x, s, to=u), s, u, "sample"), u, t, s)
    return x


@solver(paper="Boffi et al. 2024, arXiv 2406.07507; Geng et al. 2025 (MeanFlow), arXiv 2505.13447, Algorithm 2",
        order="student", students=True)  # fmt: skip
def flow_map(b: Builder):
    """Flow-map sampling: x_t = x_s + (sigma_t − sigma_s)·u(x_s, s, t), with u the average velocity from s to t.

    The model is called as ``model(x, t, to=s, ...)`` with the time that the step leads to, as MeanFlow, shortcut models
    and Align Your Flow are; it predicts a flow. For flow-matching schedules.
    """
    if b.schedule.name != "flow" or b.prediction != "flow":
        raise ValueError(
            f"flow_map is for models that predict a flow on the schedule flow(), got {b.prediction!r} on "
            f"{b.schedule.name}"
        )
    x = b.noise()
    for s, t in b.intervals():
        x = x + (t.sigma - s.sigma) * b.predict(x, s, "flow", to=t)
    return x


def _with_noise(b: Builder, x: Value, u: Point, t: Point, s: Point) -> Value:
    """From the point u to the noisier point t of the same data."""
    ratio = t.alpha / u.alpha
    return ratio * x + sqrt(t.sigma**2 - (ratio * u.sigma) ** 2) * b.gaussian(s, t)


def _check_gamma(name: str, gamma: float) -> None:
    not_negative(name, gamma=gamma)
    if gamma > 1:
        raise ValueError(f"{name}: gamma must lie between 0 and 1, got {gamma!r}")
