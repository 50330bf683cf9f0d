"""LCM: latent consistency distillation of a guided teacher, of all weights or of adapters (LCM-LoRA)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .. import ops
from ..denoiser import Denoiser
from ..schedules import Schedule
from ..solvers import Plan
from ..solvers.students import lcm
from ..training.batch import Batch
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe, unwrapped
from .lora import LAYERS, add_lora
from .progressive import ddim_step
from .students import follow, student_of, teacher_of


def boundary(schedule: Schedule, t: Tensor, sigma_data: float, scaling: float) -> Tensor:
    """(c_skip, c_out) [b, 2] at the times t [b]: d²/(u² + d²) and u/√(u² + d²), u = scaling·(the model's time).

    Those of :func:`pyaccel.solvers.lcm` (Luo et al. 2023, section 4.2 and their code).
    """
    u = scaling * schedule.model_time(t)
    norm = u.square() + sigma_data**2
    return torch.stack([sigma_data**2 / norm, u / norm.sqrt()], dim=-1)


def consistency_function(
    student: Denoiser, x: Tensor, t: Tensor, conditioning: dict, sigma_data: float, scaling: float
) -> Tensor:
    """f(x, t) = c_skip·x + c_out·x0 for x [b, ...] and the times t [b] (eq. 9)."""
    x0 = student.predict("sample", x, t, **conditioning)
    return ops.linear_combination([x, x0], boundary(student.schedule, t, sigma_data, scaling)[:, None])[0]


def huber_loss(sample: Tensor, target: Tensor, c: float) -> Tensor:
    """mean over elements of √(d² + c²) − c; with c = 0 of d²."""
    squared = (sample.float() if sample.dtype.itemsize < 4 else sample).sub(target).square()
    return ((squared + c * c).sqrt() - c).mean() if c else squared.mean()


@dataclass(frozen=True)
class LCM(Recipe):
    """Luo et al. 2023, arXiv 2310.04378, Algorithm 1; with ``lora_rank`` LCM-LoRA, arXiv 2311.05556.

    The teacher, with a guidance between ``least_guidance`` and ``most_guidance`` that is drawn for each sample, makes
    one step of DDIM over ``skip`` of the ``times`` equal parts of the schedule. (These are pyaccel's guidance, where 1
    is none: the paper's w is this minus 1.) The student is told the guidance; with LoRA it is not, and the adapters
    learn what all of these have in common. ``target_rate`` is that of the average which serves as target; with LoRA the
    target is the student itself. ``timestep_scaling`` and ``sigma_data`` are those of the boundary condition, for
    networks that are told times up to 999; where these are told t in [0, 1], it wants a thousand times as much.
    ``lora_layers`` are the ends of the names of layers that get adapters; they are written by :func:`.lora.save_lora`.
    """

    student: Optimizer = Optimizer(8e-6, "adamw")
    skip: int = 20
    times: int = 1000
    least_guidance: float = 3.0
    most_guidance: float = 15.0
    loss: Literal["huber", "l2"] = "huber"
    huber_c: float = 0.001
    target_rate: float = 0.95
    sigma_data: float = 0.5
    timestep_scaling: float = 10.0
    lora_rank: int = 0
    lora_layers: tuple[str, ...] = LAYERS

    def __post_init__(self):
        if not 1 <= self.skip < self.times or not 1 <= self.least_guidance <= self.most_guidance:
            raise ValueError(
                "lcm needs 1 <= skip < times and 1 <= least_guidance <= most_guidance, got "
                f"{self.skip}, {self.times}, {self.least_guidance} and {self.most_guidance}"
            )
        if min(self.huber_c, self.sigma_data, self.timestep_scaling) <= 0 or not 0 <= self.target_rate < 1:
            raise ValueError(
                "lcm needs huber_c, sigma_data and timestep_scaling above 0 and target_rate in [0, 1), got "
                f"{self.huber_c}, {self.sigma_data}, {self.timestep_scaling} and {self.target_rate}"
            )
        if self.lora_rank < 0 or not self.lora_layers:
            raise ValueError(
                f"lcm needs lora_rank of at least 0 and some lora_layers, got {self.lora_rank} and {self.lora_layers}"
            )

    @property
    def kept(self) -> tuple[str, ...]:
        """The target where it is not the student itself."""
        return ("target",) if self.target_rate and not self.lora_rank else ()

    @property
    def told(self) -> bool:
        """Whether the student is told the guidance."""
        return self.least_guidance < self.most_guidance and not self.lora_rank

    def networks(self, teacher: Denoiser) -> dict:
        """The student, its target where that lags behind, and the teacher."""
        if self.most_guidance > 1 and not teacher.unconditional:
            raise ValueError("lcm guides its teacher, which needs unconditional={argument: value without condition}")
        student = student_of(teacher)
        if self.lora_rank:
            add_lora(student.model, self.lora_rank, self.lora_layers)
        elif self.told:
            if not hasattr(student.model, "add_guidance"):
                raise ValueError(
                    f"{type(student.model).__name__} cannot be told the guidance: take a network with a method "
                    "add_guidance(), after which it takes `guidance`, or least_guidance=most_guidance, or lora_rank"
                )
            student.model.add_guidance()
        return {"student": student, "teacher": teacher_of(teacher)} | {name: student_of(student) for name in self.kept}

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Algorithm 1."""
        student, schedule, conditioning = networks.student, networks.student.schedule, batch.conditioning
        place = self.skip + 1 + (batch.uniform().double() * (self.times - self.skip)).long()
        first = self.plan(student, 1).times[0]  # below 1 where noise alone says nothing of the data
        t, s = ((p.double() / self.times).clamp_max(first) for p in (place, place - self.skip))
        guidance = self.least_guidance + (self.most_guidance - self.least_guidance) * batch.uniform()
        x_t = schedule.add_noise(batch.x, batch.normal(), t)
        told = conditioning | ({"guidance": guidance} if self.told else {})
        with torch.no_grad():
            teacher = dataclasses.replace(networks.teacher, guidance=guidance if self.most_guidance > 1 else 1.0)
            x_s = ddim_step(teacher, x_t, t, s, conditioning)
            target = networks.target if self.kept else unwrapped(student)
            wanted = consistency_function(target, x_s, s, told, self.sigma_data, self.timestep_scaling)
        sample = consistency_function(student, x_t, t, told, self.sigma_data, self.timestep_scaling)
        yield "student", huber_loss(sample, wanted, self.huber_c if self.loss == "huber" else 0.0)
        if self.kept:
            follow(networks.target, student, self.target_rate)

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled (Algorithm 3), with the boundary condition that it was trained with."""
        return lcm(
            student.schedule, steps, prediction=student.prediction, sigma_data=self.sigma_data,
            timestep_scaling=self.timestep_scaling,
        )  # fmt: skip
