"""The few times at which a student is trained and sampled, of which the first is pure noise: for ADD and LADD."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..schedules import Schedule
from ..solvers import Plan
from ..solvers.students import lcm
from ..training.recipe import Recipe
from .students import consistency_plan, per_sample

TIMES = (1.0, 0.75, 0.5, 0.25)


def check_times(recipe: str, times: Sequence[float]) -> None:
    """ValueError unless they fall, from 1."""
    if not times or times[0] != 1 or times[-1] <= 0 or any(s >= t for t, s in pairwise(times)):
        raise ValueError(f"{recipe} needs times that begin with 1, the pure noise, and fall, all above 0; got {times}")


def check_shares(recipe: str, times: Sequence[float], shares: Sequence[float]) -> None:
    """ValueError unless they are as many as the times and add up to 1."""
    if len(shares) != len(times) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"{recipe} needs a share for each of {len(times)} times, together 1; got {shares}")


def student_times(student: Denoiser, times: Sequence[float]) -> list[float]:
    """The times of the schedule; the first is where a run of the student begins, which is below 1 where a prediction of
    the noise says nothing of the data at 1."""
    first = consistency_plan(student, 1).times[0]
    return [min(t, first) for t in times]


def drawn_times(u: Tensor, times: Sequence[float], shares: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(t, whether it is the first) [b] for u [b], uniform in (0, 1): each time with its share."""
    t, bounds = torch.full_like(u, times[-1]), list(accumulate(shares))
    for time, bound in reversed(list(zip(times[:-1], bounds[:-1], strict=True))):
        t = torch.where(u < bound, time, t)
    return t, u < bounds[0]


def with_noise(schedule: Schedule, x0: Tensor, noise: Tensor, t: Tensor, pure: Tensor) -> Tensor:
    """alpha(t)·x0 + sigma(t)·noise for x0 and noise [b, ...] and t [b], without x0 where ``pure`` [b] is true.

    There a student begins, also on schedules that keep a rest of the data at their end ("zero terminal SNR").
    """
    alpha = torch.where(pure, 0.0, schedule.alpha(t))
    return per_sample(alpha, x0) * x0 + per_sample(schedule.sigma(t), x0) * noise


def few_step_plan(student: Denoiser, times: Sequence[float], calls: int) -> Plan:
    """Consistency multistep sampling at ``calls`` of the times, evenly chosen from the first on.

    More calls than times are those of :func:`.consistency_plan`, at times that the student has not seen: so a list of
    times as a solver's grid has it, which a student's card can name.
    """
    return lcm(student.schedule, calls, prediction=student.prediction, grid=list(times))


class FewTimes(Recipe):
    """A recipe with a field ``times``, at which its student is sampled as it was trained."""

    times: tuple[float, ...]

    @property
    def grid(self) -> list[float]:
        """The times."""
        return list(self.times)

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled: at the times that it was trained at."""
        return few_step_plan(student, self.times, steps)
