"""Heun's method with noise added on the way: EDM's stochastic sampler and Restart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ..schedules import Schedule
from .builder import Builder, Point, Value
from .family import solver
from .runge_kutta import HEUN, rho_step
from .settings import whole


@solver(paper="Karras et al. 2022, arXiv 2206.00364, Algorithm 2", order="2 between the noises", calls="2",
        stochastic=True, grid="karras")  # fmt: skip
def edm_stochastic(b: Builder, churn: float = 40.0, s_min: float = 0.05, s_max: float = 50.0, s_noise: float = 1.003):
    """EDM's stochastic sampler: each step first adds noise, from sigma to (1 + gamma)·sigma, then makes a step of Heun.

    gamma = min(churn/steps, √2 − 1) where ``s_min`` <= sigma/alpha <= ``s_max``, and 0 elsewhere; ``s_noise`` inflates
    the noise. All in sigma/alpha, so it serves any schedule; the defaults are the paper's for ImageNet-64.
    """
    if not (churn >= 0 and 0 <= s_min <= s_max and s_noise > 0):
        raise ValueError(
            f"edm_stochastic: need churn >= 0, 0 <= s_min <= s_max and s_noise > 0, got {churn}, {s_min}, {s_max}, "
            f"{s_noise}"
        )
    gamma = min(churn / (len(b.points) - 1), math.sqrt(2) - 1)
    x = b.noise()
    for s, t in b.intervals():
        if s.finite and s_min <= s.ratio <= s_max and gamma > 0:
            # A model of betas knows no more noise than that of its first time.
            ratio = min((1 + gamma) * s.ratio, _most(b.schedule))
            if ratio > s.ratio:
                x, s = noisier(b, x, s, ratio, s_noise)
        x = _heun(b, x, s, t)
    return x


@solver(paper="Xu et al. 2023, arXiv 2306.14878, Algorithm 1", order="2 between the noises", calls="2 + restarts",
        stochastic=True, grid="karras")  # fmt: skip
def restart(
    b: Builder, restarts: Sequence[Sequence[float]] = ((3, 2, 0.06, 0.30),), s_noise: float = 1.003, rho: float = 7.0
):
    """Restart: Heun's method that goes back to more noise several times, which forgets the errors made so far.

    Each of ``restarts`` is (N, K, t_min, t_max) as the paper gives them: when sigma/alpha has come to t_min (to the
    point of the grid that is nearest), noise is added up to t_max and Heun's method run back through N points, spaced
    as by Karras with ``rho``; K times.
    """
    plan = {}
    for entry in restarts:
        if len(entry) != 4 or not (entry[0] >= 2 and entry[1] >= 1 and 0 < entry[2] < entry[3]):
            raise ValueError(f"restart: each restart is (N >= 2, K >= 1, 0 < t_min < t_max), got {entry!r}")
        for count in entry[:2]:
            whole("restart", "N and K of restarts", count)
        inner = [p for p in b.points[1:] if p.finite]
        nearest = min(inner, key=lambda p: abs(p.ratio - entry[2]), default=None)
        if entry[3] > _most(b.schedule):
            raise ValueError(f"restart: t_max {entry[3]} is more noise than {b.schedule.name} has at its first time")
        if nearest is None or nearest.ratio >= entry[3]:
            raise ValueError(f"restart: no point of the grid has a sigma/alpha near {entry[2]} and below {entry[3]}")
        plan.setdefault(nearest, []).append(entry)
    x = b.noise()
    for s, t in b.intervals():
        x = _heun(b, x, s, t)
        for count, times, _, top in plan.get(t, ()):
            ends = top ** (1 / rho), t.ratio ** (1 / rho)
            ratios = [(ends[0] + i / (count - 1) * (ends[1] - ends[0])) ** rho for i in range(1, count - 1)]
            for _ in range(times):
                x, start = noisier(b, x, t, top, s_noise)
                way = [start, *(b.point(lam=-math.log(r)) for r in ratios), t]
                for u, v in itertools.pairwise(way):
                    x = _heun(b, x, u, v)
    return x


def _most(schedule: Schedule) -> float:
    """The largest sigma/alpha that a model of this schedule can be asked about; EDM's and VE's take any."""
    alpha = float(schedule.alpha(1.0))
    return math.inf if alpha == 0 or schedule.name in ("edm", "ve") else float(schedule.sigma(1.0)) / alpha


def noisier(b: Builder, x: Value, s: Point, ratio: float, s_noise: float) -> tuple[Value, Point]:
    """The sample with noise added until sigma/alpha is ``ratio``, and that point."""
    u = b.point(lam=-math.log(ratio))
    added = s_noise * u.alpha * math.sqrt(ratio * ratio - s.ratio * s.ratio)
    return (u.alpha / s.alpha) * x + added * b.gaussian(s, u), u


def _heun(b: Builder, x: Value, s: Point, t: Point) -> Value:
    return rho_step(b, x, b.predict(x, s, s.form("epsilon")), s, t, HEUN)
