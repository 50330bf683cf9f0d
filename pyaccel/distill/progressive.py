"""Progressive distillation: one step of the student does what two steps of the teacher do, again and again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..solvers import Plan
from ..solvers.ddim import ddim
from ..training.batch import Batch
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe, module_of, unwrapped
from .students import copy_weights, ddim_transfer, implied_sample, student_of


def ddim_step(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, conditioning: dict) -> Tensor:
    """DDIM from the times t [b] down to s [b], by one call."""
    return ddim_transfer(denoiser.schedule, x, denoiser.predict("sample", x, t, **conditioning), t, s)


@torch.no_grad()
def two_step_target(teacher: Denoiser, x: Tensor, t: Tensor, middle: Tensor, s: Tensor, conditioning: dict) -> Tensor:
    """The x0 with which one DDIM step from t to s lands where the teacher's two, by ``middle``, land (Algorithm 2)."""
    x_s = ddim_step(teacher, ddim_step(teacher, x, t, middle, conditioning), middle, s, conditioning)
    return implied_sample(teacher.schedule, x, x_s, t, s)


def truncated_snr_loss(sample: Tensor, target: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """max(‖x̃ − x0‖², ‖ε̃ − ε‖²), means over elements: the weight max(1, alpha²/sigma²) on x0 (section 4)."""
    weight = (alpha / sigma).square().clamp_min(1.0)
    return (weight.to(sample.dtype) * (sample - target).flatten(1).square().mean(1)).mean()


@dataclass(frozen=True)
class ProgressiveDistillation(Recipe):
    """Salimans & Ho 2022, arXiv 2202.00512, Algorithm 2.

    The first student makes ``start_steps`` steps; after every ``phase`` training steps the student becomes the teacher
    and the number is halved, down to ``end_steps``. ``student.cycle`` should be ``phase``, so that the learning rate
    begins anew in each. Those of a run: ``phase``·log2(2·start_steps/end_steps).
    """

    student: Optimizer = Optimizer(5e-5, "adam", decay="linear", cycle=1000)
    start_steps: int = 16
    end_steps: int = 1
    phase: int = 1000

    kept = ("teacher",)

    def __post_init__(self):
        ratio, rest = divmod(self.start_steps, self.end_steps) if self.end_steps > 0 else (0, 0)
        if ratio < 1 or rest or ratio & (ratio - 1) or self.phase < 1:
            raise ValueError(
                "progressive distillation halves start_steps until it is end_steps, every `phase` steps; got "
                f"start_steps={self.start_steps}, end_steps={self.end_steps}, phase={self.phase}"
            )

    def steps_at(self, step: int) -> int:
        """The student's number of steps at a step of the training."""
        return max(self.end_steps, self.start_steps >> step // self.phase)

    def networks(self, teacher: Denoiser) -> dict:
        """The student, and the teacher that it replaces now and then."""
        student = student_of(teacher)
        return {"student": student, "teacher": dataclasses.replace(student_of(teacher), guidance=teacher.guidance)}

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """One step of Algorithm 2."""
        student, teacher = networks.student, networks.teacher
        steps = self.steps_at(batch.step)
        if steps < self.start_steps:  # it was a student, which has learned the guidance
            teacher = dataclasses.replace(teacher, guidance=1.0)
        if batch.step % self.phase == 0 and batch.step > 0 and steps < self.steps_at(batch.step - 1):
            for network in (teacher, student):
                copy_weights(module_of(networks.ema["student"]), module_of(unwrapped(network)))
        schedule, x0 = student.schedule, batch.x
        first = self.plan(student, 1).times[0]
        t = torch.ceil(batch.uniform() * steps) / steps * first
        middle, s = t - 0.5 * first / steps, (t - first / steps).clamp_min(0.0)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x = schedule.add_noise(x0, batch.normal(), t)
        target = two_step_target(teacher, x, t, middle, s, batch.conditioning)
        sample = student.predict("sample", x, t, **batch.conditioning)
        yield "student", truncated_snr_loss(sample, target, alpha, sigma)

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled: DDIM with the steps that it has learned."""
        return ddim(student.schedule, steps, prediction=student.prediction, grid="uniform")
