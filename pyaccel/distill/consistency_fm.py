"""Consistency flow matching: a velocity that leads straight to the end of its segment of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..solvers import Plan
from ..solvers.ddim import euler
from ..training.batch import Batch
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe, unwrapped
from .students import per_sample, require_flow, student_of, teacher_of


def segment_end(x: Tensor, t: Tensor, end: Tensor, velocity: Tensor) -> Tensor:
    """f(t, x_t) = x_t + (end − t)·v: where the line from x [b, ...] meets the end [b] of its segment (section 3.1)."""
    return x + per_sample(end - t, x) * velocity


def mean_square(error: Tensor) -> Tensor:
    """[b]: the mean over the elements of each sample."""
    return error.flatten(1).square().mean(1)


@dataclass(frozen=True)
class ConsistencyFM(Recipe):
    """Yang et al. 2024, arXiv 2407.02398, eq. 6 and 7, with the choices of their code.

    ‖f(t, x_t) − sg f(r, x_r)‖² + ``alpha``·‖v(t, x_t) − sg v(r, x_r)‖² at a time t and its neighbour r, ``delta``
    nearer to the data; f is where the velocity leads at the end of the segment, one of ``segments`` of equal length.
    The second part is left out where r is past that end. Where r is at most ``boundary``, the target is the point of
    the data's own line at the segment's end. (The paper's time is 1 − t: their boundary of 0.9 is 0.1 here. They train
    with a boundary of 1 first, which is flow matching; a student that begins as its teacher has that behind it.)

    ``source``: x_r is made of the same data and noise, or the teacher's step of Euler from x_t, with its guidance.
    """

    student: Optimizer = Optimizer(2e-4, "adam")
    segments: int = 2
    delta: float = 1e-3
    alpha: float = 1e-5
    boundary: float = 0.1
    source: Literal["data", "teacher"] = "data"

    def __post_init__(self):
        if self.segments < 1 or not 0 < self.delta < 1 / self.segments or self.alpha < 0:
            raise ValueError(
                "consistency-fm needs segments of at least 1, delta between 0 and 1/segments and alpha of at least 0, "
                f"got {self.segments}, {self.delta} and {self.alpha}"
            )
        if not 0 <= self.boundary <= 1:
            raise ValueError(f"consistency-fm needs a boundary in [0, 1], got {self.boundary}")
        if self.boundary and self.source == "teacher":
            raise ValueError("consistency-fm: the teacher's trajectory does not end in the data's own; take boundary=0")

    def networks(self, teacher: Denoiser) -> dict:
        """The student, and the teacher where it makes the steps."""
        require_flow("consistency-fm", teacher)
        networks = {"student": student_of(teacher)}
        return networks | ({"teacher": teacher_of(teacher)} if self.source == "teacher" else {})

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """One step, as in their code."""
        x0, noise, conditioning = batch.x, batch.normal(), batch.conditioning

        def line(t: Tensor) -> Tensor:
            return per_sample(1 - t, x0) * x0 + per_sample(t, x0) * noise

        t = batch.uniform()
        r, end = (t - self.delta).clamp_min(0.0), torch.floor(t * self.segments) / self.segments
        x_t = line(t)
        if self.source == "teacher":
            with torch.no_grad():
                x_r = segment_end(x_t, t, r, networks.teacher(x_t, t, **conditioning).to(x0.dtype))
        else:
            x_r = line(r)
        with torch.no_grad():
            v_r = unwrapped(networks.student)(x_r, r, **conditioning).to(x0.dtype)
            target = segment_end(x_r, r, end, v_r)
            if self.boundary:
                target = torch.where(per_sample(r, x0) <= self.boundary, line(end), target)
        v_t = networks.student(x_t, t, **conditioning).to(x0.dtype)
        loss = mean_square(segment_end(x_t, t, end, v_t) - target)
        far = (t - end > 1.01 * self.delta) & (t > self.boundary)
        yield "student", (loss + self.alpha * (far * mean_square(v_t - v_r))).mean()

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled: Euler in equal steps, best one or more for each segment (section 3.2)."""
        return euler(student.schedule, steps, prediction=student.prediction)
