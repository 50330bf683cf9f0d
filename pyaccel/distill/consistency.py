"""Consistency models with discrete times: distillation, training, and the improvements of iCT and ECT."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .. import ops
from ..denoiser import Denoiser
from ..schedules import Schedule
from ..solvers import Plan
from ..solvers.ddim import ddim
from ..training.batch import Batch
from ..training.distances import Distance, distance_of
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe, unwrapped
from .students import (
    consistency_plan,
    ddim_transfer,
    follow,
    implied_sample,
    per_sample,
    start_of,
    student_of,
    teacher_of,
)


def karras_levels(count: int, least: float, most: float, rho: float = 7.0) -> Tensor:
    """``count`` + 1 noise levels sigma/alpha, rising, evenly spaced in their rho-th roots (Karras 2022, eq. 5)."""
    ends = (x ** (1 / rho) for x in (least, most))
    return torch.linspace(*ends, count + 1, dtype=torch.float64) ** rho


def level_probabilities(levels: Tensor, mean: float, std: float) -> Tensor:
    """[N] for N + 1 levels: those of a log-normal level that is rounded to them (Song & Dhariwal 2023)."""
    z = torch.erf((levels.log() - mean) / (math.sqrt(2) * std))
    p = z[1:] - z[:-1]
    return p / p.sum()


def doubled_levels(first: int, most: int, step: int, steps: int) -> int:
    """How many levels there are at a step of the training: first·2^k, doubled at equal intervals (iCT, section 3.4)."""
    doublings = max(0, int(math.log2(most / first)))
    interval = max(1, steps // (doublings + 1))
    return min(first * 2 ** (step // interval), most)


def ect_level(level: Tensor, step: int, steps: int, q: float = 2.0, k: float = 8.0, b: float = 1.0) -> Tensor:
    """The less noisy partner of a noise level t: r = t·(1 − q^−a·n(t)), n(t) = 1 + k·sigmoid(−b·t), at least 0.

    a is 1, 2, ... 8 in eight equal stages of the training; in the last one r is nearly t (Geng et al. 2024, arXiv
    2406.14548: the mapping "sigmoid" of their code, and its eight stages on CIFAR-10).
    """
    stage = 1 + min(7, 8 * step // max(1, steps))
    return (level * (1 - q**-stage * (1 + k * torch.sigmoid(-b * level)))).clamp_min(0.0)


@torch.no_grad()
def teacher_step(teacher: Denoiser, x: Tensor, t: Tensor, s: Tensor, conditioning: dict, heun: bool = True) -> Tensor:
    """One step of the ODE from the times t [b] down to s [b], in d(x/alpha)/d(sigma/alpha) = eps, by Euler or Heun."""
    schedule = teacher.schedule
    change = schedule.alpha(s) * (schedule.ratio(s) - schedule.ratio(t))
    scale = schedule.alpha(s) / schedule.alpha(t)
    eps = teacher.predict("epsilon", x, t, **conditioning)
    x_s = ops.linear_combination([x, eps], torch.stack([scale, change], dim=-1)[:, None])[0]
    if not heun:
        return x_s
    there = teacher.predict("epsilon", x_s, s, **conditioning)
    return ops.linear_combination([x, eps, there], torch.stack([scale, 0.5 * change, 0.5 * change], dim=-1)[:, None])[0]


def consistency_loss(
    student: Denoiser,
    target: Denoiser,
    x_t: Tensor,
    x_s: Tensor,
    t: Tensor,
    s: Tensor,
    weight: Tensor,
    distance: Distance,
    conditioning: dict,
    end: Tensor | None = None,
) -> Tensor:
    """mean of weight·d(f(x_t, t), sg f⁻(x_s, s)), f the student's x0 (Song et al. 2023, eq. 7 and 10).

    At s = 0, f⁻ is x_s itself, as it is for every network: x0 = x there. With ``end`` [b], at most s, it is the x0 that
    leads from x_t to where f⁻ leads from x_s at that time (Heek et al. 2024, Algorithm 1).
    """
    with torch.no_grad():
        wanted = target.predict("sample", x_s, s, **conditioning)
        if end is None:
            wanted = torch.where(per_sample(s, x_s) <= 0, x_s, wanted)
        else:
            inside = s > end
            there = ddim_transfer(target.schedule, x_s, wanted, torch.where(inside, s, t), end)
            there = torch.where(per_sample(inside, x_s) > 0, there, x_s)
            wanted = implied_sample(target.schedule, x_t, there, t, end)
    sample = student.predict("sample", x_t, t, **conditioning)
    return (weight.to(x_t.dtype) * distance(sample, wanted)).mean()


@dataclass(frozen=True)
class Consistency(Recipe):
    """Song et al. 2023, arXiv 2303.01469, Algorithms 2 and 3, with the choices of its successors.

    ``source``: x_s is the teacher's ODE step from x_t (distillation), or made of the same data and noise (training).
    ``pairing``: times next to each other on a grid of Karras's levels, whose number doubles from ``levels`` to
    ``most_levels`` over the training (iCT: Song & Dhariwal 2023, arXiv 2310.14189), or ECT's pairs (arXiv 2406.14548),
    which draw closer. The noise level sigma/alpha is log-normal with ``mean`` and ``std`` within ``least`` and
    ``most``, or the schedule's largest. The weight is 1/(difference of levels) with ``weighted``, also where a segment
    ends between them. ``target_rate`` is the rate of the average that serves as target, 0 for the student itself.

    With more than one of ``segments`` it is a multistep consistency model (Heek et al. 2024, arXiv 2403.06807): time is
    cut into so many equal parts, in each of which the student leads to its end, and as many steps of DDIM sample it.
    """

    student: Optimizer = Optimizer(1e-4, "radam")
    source: Literal["teacher", "data"] = "teacher"
    pairing: Literal["grid", "ect"] = "grid"
    distance: Literal["l1", "l2", "pseudo-huber", "lpips"] = "pseudo-huber"
    levels: int = 18
    most_levels: int = 18
    least: float = 0.002
    most: float = 80.0
    rho: float = 7.0
    mean: float = -1.1
    std: float = 2.0
    heun: bool = True
    weighted: bool = True
    target_rate: float = 0.0
    segments: int = 1

    depends_on_steps = True  # how far the two times are apart

    def __post_init__(self):
        if not 2 <= self.levels <= self.most_levels or not 0 < self.least < self.most or not 0 <= self.target_rate < 1:
            raise ValueError(
                "consistency needs 2 <= levels <= most_levels, 0 < least < most and target_rate in [0, 1), got "
                f"{self.levels}, {self.most_levels}, {self.least}, {self.most} and {self.target_rate}"
            )
        if self.segments < 1:
            raise ValueError(f"consistency needs segments of at least 1, got {self.segments}")
        if self.source == "teacher" and self.pairing == "ect":
            raise ValueError("ECT's pairs are far apart at first: too far for a step of a teacher; take source='data'")

    def networks(self, teacher: Denoiser) -> dict:
        """The student, its target where that lags behind, and the teacher where it makes the steps."""
        networks = {"student": student_of(teacher)} | {name: student_of(teacher) for name in self.kept}
        return networks | ({"teacher": teacher_of(teacher)} if self.source == "teacher" else {})

    @property
    def kept(self) -> tuple[str, ...]:
        """The target where it is not the student itself."""
        return ("target",) if self.target_rate else ()

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Algorithm 2 or 3."""
        student, schedule, x0 = networks.student, networks.student.schedule, batch.x
        level, lower = (u.to(x0.device) for u in self._levels(batch, min(self.most, schedule.ratio(1.0))))
        t, s = schedule.time_of_ratio(level), torch.where(lower > 0, schedule.time_of_ratio(lower.clamp_min(1e-9)), 0.0)
        end = self._ends(schedule, t)
        if end is not None:
            s = torch.maximum(s, end)
        noise = batch.normal()
        x_t = schedule.add_noise(x0, noise, t)
        if self.source == "teacher":
            x_s = teacher_step(networks.teacher, x_t, t, s, batch.conditioning, self.heun)
        else:
            x_s = schedule.add_noise(x0, noise, s)
        # Not of the end's level where that is nearer: the x0 that leads to an end does not come nearer with it, and at
        # levels that lie next to an end by chance the weight would be hundreds of times as large.
        weight = 1 / (level - lower) if self.weighted else torch.ones_like(level)
        target = networks.target if self.target_rate else unwrapped(student)
        distance = distance_of(self.distance, x0.device)
        yield "student", consistency_loss(student, target, x_t, x_s, t, s, weight, distance, batch.conditioning, end)
        if self.target_rate:  # once a step: of the parts of a batch that is accumulated, the first comes here alone
            follow(target, student, self.target_rate)

    def _levels(self, batch: Batch, most: float) -> tuple[Tensor, Tensor]:
        """The two noise levels of each sample up to ``most``, float64 [b]."""
        if self.pairing == "ect":
            z = torch.special.ndtri(batch.uniform().double())
            level = torch.exp(self.mean + self.std * z).clamp(self.least, most)
            return level, ect_level(level, batch.step, batch.steps)
        count = doubled_levels(self.levels, self.most_levels, batch.step, batch.steps)
        levels = karras_levels(count, self.least, most, self.rho).to(batch.x.device)
        shares = level_probabilities(levels, self.mean, self.std).cumsum(0)
        place = torch.searchsorted(shares, batch.uniform().double()).clamp_max(count - 1)
        return levels[place + 1], levels[place]

    def _first(self, schedule: Schedule) -> float:
        """The time of the largest level."""
        return start_of(schedule, self.most).get("start", 1.0)

    def _ends(self, schedule: Schedule, t: Tensor) -> Tensor | None:
        """[b], where the segments of the times end; None where there is but one."""
        if self.segments == 1:
            return None
        first = self._first(schedule)
        # A time on a border, but for rounding, belongs to the segment that begins there.
        return (torch.ceil(t / first * self.segments - 1e-6) - 1).clamp_min(0) * (first / self.segments)

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled (Algorithm 1): from the largest level that it was trained on."""
        if self.segments > 1:
            schedule = student.schedule
            return ddim(schedule, steps, prediction=student.prediction, grid="uniform", start=self._first(schedule))
        return consistency_plan(student, steps, self.most)
