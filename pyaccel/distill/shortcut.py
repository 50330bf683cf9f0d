"""Shortcut models: one step of a size d is learned from two steps of half the size."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..solvers import Plan
from ..solvers.students import flow_map
from ..training.batch import Batch
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe
from .students import Initial, per_sample, require_flow, student_of, teacher_of


@torch.no_grad()
def shortcut_target(
    network: Denoiser,
    x: Tensor,
    t: Tensor,
    d: Tensor,
    least: float,
    conditioning: dict,
    guidance: float = 1.0,
    limit: float = 4.0,
) -> Tensor:
    """½·(u_1 + u_2) of two steps of d/2 from x [b, ...] at t [b], for one step of d [b] (Frans et al. 2024, eq. 4).

    The steps of the ``least`` size are made of instantaneous velocities, which the network is asked for by ``to`` = t;
    those are guided by ``guidance``, which the longer steps learn from them (section 3.2). What lies between the two
    steps is clamped to ±``limit``, and so is the result.
    """
    smallest = d <= least
    asked = torch.where(smallest, 0.0, 0.5 * d)
    if guidance != 1.0 and network.unconditional.keys() & conditioning.keys():
        network = dataclasses.replace(network, guidance=torch.where(smallest, guidance, torch.ones_like(d)))
    first = network(x, t, to=t - asked, **conditioning).to(x.dtype)
    x = (x - per_sample(0.5 * d, x) * first).clamp(-limit, limit)
    t = t - 0.5 * d
    second = network(x, t, to=t - asked, **conditioning).to(x.dtype)
    return (0.5 * (first + second)).clamp(-limit, limit)


@dataclass(frozen=True)
class Shortcut(Recipe):
    """Frans et al. 2024, arXiv 2410.12557, Algorithm 1.

    One of ``bootstrap_every`` samples learns a step of a size 1, ½, ... 1/``most_steps`` from two steps of half of it
    by the average of the student; they start at multiples of the size. The others are flow matching, which is the size
    0, at multiples of the smallest. The first average (``ema``) makes the targets: what they have learned goes from one
    size to the next as fast as it follows. ``limit`` clamps targets. ``bootstrap_guidance`` guides the velocities that
    the smallest steps are made of; labels are left out of a share ``label_dropout`` of the flow matching.

    ``initial`` weights: random ones, or the teacher's. ``velocity``: that of the data's own pairs, or the teacher's
    with its guidance (at a guidance of 1 both have the same mean, and the teacher's has less variance).
    """

    student: Optimizer = Optimizer(1e-4, weight_decay=0.1, clip=0.0)
    most_steps: int = 128
    bootstrap_every: int = 8
    bootstrap_guidance: float = 1.0
    label_dropout: float = 0.1
    limit: float = 4.0
    initial: Initial = "random"
    velocity: Literal["data", "teacher"] = "data"

    def __post_init__(self):
        steps = self.most_steps
        if steps < 2 or steps & (steps - 1):
            raise ValueError(f"shortcut halves its steps: most_steps must be a power of two above 1, got {steps}")
        if self.bootstrap_every < 2 or not 0 <= self.label_dropout < 1 or not self.limit > 0:
            raise ValueError(
                "shortcut needs bootstrap_every of at least 2, label_dropout in [0, 1) and limit > 0, got "
                f"{self.bootstrap_every}, {self.label_dropout} and {self.limit}"
            )
        if not math.isfinite(self.bootstrap_guidance):
            raise ValueError(f"shortcut needs a finite bootstrap_guidance, got {self.bootstrap_guidance}")

    def networks(self, teacher: Denoiser) -> dict:
        """The student with two times, and the teacher where it gives the velocity."""
        require_flow("shortcut", teacher)
        if self.bootstrap_guidance != 1 and not teacher.unconditional:
            raise ValueError(
                f"shortcut with bootstrap_guidance={self.bootstrap_guidance} guides its velocities, which needs a "
                "teacher with unconditional={argument: value without condition}"
            )
        student = {"student": student_of(teacher, second_time=True, initial=self.initial)}
        return student | ({"teacher": teacher_of(teacher)} if self.velocity == "teacher" else {})

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Algorithm 1."""
        x0, noise, least = batch.x, batch.normal(), 1 / self.most_steps
        sizes = self._sizes(batch)
        d = torch.tensor(sizes, dtype=x0.dtype, device=x0.device)
        apart = d.clamp_min(least)
        t = 1 - torch.floor(batch.uniform() / apart) * apart
        dropped = batch.dropped(networks.student.unconditional, self.label_dropout)
        conditioning = {  # two steps have the label that they were asked for
            name: torch.where(d.view(-1, *[1] * (given.dim() - 1)) > 0, given, dropped[name])
            for name, given in batch.conditioning.items()
        }
        x = per_sample(1 - t, x0) * x0 + per_sample(t, x0) * noise
        target = noise - x0
        if self.velocity == "teacher":
            with torch.no_grad():
                target = networks.teacher(x, t, **conditioning).to(x.dtype)
        # Every rank makes the same calls, which shards wait for: a part without any step asks, and does not listen.
        steps = [i for i, size in enumerate(sizes) if size]
        some = torch.tensor(steps or [0], device=x.device)
        made = shortcut_target(
            networks.ema["student"], x[some], t[some], d[some], least, {k: v[some] for k, v in conditioning.items()},
            self.bootstrap_guidance, self.limit,
        )  # fmt: skip
        if steps:
            target = target.index_copy(0, some, made)
        u = networks.student(x, t, to=t - d, **conditioning)
        yield "student", (u.to(x.dtype) - target).square().mean()

    def _sizes(self, batch: Batch) -> list[float]:
        """The size of each sample's step by its place and the training's step: 0, or all sizes in turn."""
        every, count = self.bootstrap_every, self.most_steps.bit_length()
        numbers = (batch.step * batch.size + place for place in batch.places)  # of samples since the beginning
        return [0.0 if (n + 1) % every else 0.5 ** (n // every % count) for n in numbers]

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled; it knows numbers of steps that are powers of two up to ``most_steps``."""
        return flow_map(student.schedule, steps, prediction=student.prediction)
