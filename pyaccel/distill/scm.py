"""sCM: consistency models with continuous time, learned from a tangent; distillation (sCD) and training (sCT)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .. import ops, predictions
from ..denoiser import Denoiser
from ..models.layers import sinusoidal_embedding
from ..solvers import Plan
from ..training.batch import Batch
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe, unwrapped
from .students import consistency_plan, per_sample, student_of, teacher_of
from .tangents import Tangent, directional_derivative


def trig_velocity(denoiser: Denoiser, x: Tensor, u: Tensor, sigma_data: float, conditioning: dict) -> Tensor:
    """sigma_data·F(x/sigma_data, u) of TrigFlow, from a denoiser of any schedule.

    x = cos(u)·x0 + sin(u)·sigma_data·eps is [b, ...], the angle u [b] in (0, π/2). The same point lies on the
    denoiser's schedule at the time of equal sigma/alpha, scaled; there sigma_data·F = dx/du = cos(u)·sigma_data·eps −
    sin(u)·x0 is a combination of its input and output. It has tangents.
    """
    schedule, cos, sin = denoiser.schedule, torch.cos(u.double()), torch.sin(u.double())
    t = schedule.time_of_ratio(sigma_data * sin / cos)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    scale = (alpha + sigma) / (cos + sigma_data * sin)  # alpha/cos and sigma/(sigma_data·sin), without either zero
    there = x * per_sample(scale, x)
    output = denoiser(there, schedule.model_time(t).to(x.dtype), **conditioning)
    to_x0, to_eps = (f(denoiser.prediction, alpha, sigma) for f in (predictions.to_sample, predictions.to_noise))
    of_input, of_output = (cos * sigma_data * e - sin * d for d, e in zip(to_x0, to_eps, strict=True))
    return ops.linear_combination([there, output], torch.stack([of_input, of_output], dim=-1)[:, None])[0]


def scm_tangent(f: Tensor, df_du: Tensor, x: Tensor, dx_du: Tensor, u: Tensor, warmup: float) -> Tensor:
    """cos(u)·df/du of the consistency function, with its second part scaled by ``warmup`` (Lu & Song 2024, eq. 6).

    −cos²u·(F − dx/du) − r·cos u·sin u·(x + dF/du), with F and its derivative already times sigma_data.
    """
    cos, sin = per_sample(torch.cos(u), x), per_sample(torch.sin(u), x)
    return -cos * cos * (f - dx_du) - warmup * cos * sin * (x + df_du)


def normalised(tangent: Tensor, c: float = 0.1) -> Tensor:
    """g/(‖g‖ + c), ‖g‖ the root mean square of a sample's elements (section 4.2)."""
    norm = tangent.flatten(1).square().mean(1).sqrt()
    return tangent / per_sample(norm + c, tangent)


class LossWeight(nn.Module):
    """phi(u) [b]: the logarithm of the weight of the loss at an angle, learned beside it (eq. 8)."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)
        self.width = width

    def forward(self, u: Tensor) -> Tensor:
        waves = sinusoidal_embedding(16 * u, self.width)
        return self.net(waves.to(self.net[0].weight.dtype)).squeeze(-1)


def scm_loss(f: Tensor, f_minus: Tensor, tangent: Tensor, phi: Tensor) -> Tensor:
    """mean of e^phi·‖F − sg(F⁻ + g)‖²/D − phi (Algorithm 1); all [b, ...], phi [b]."""
    squared = (f - (f_minus + tangent).detach()).flatten(1).square().mean(1)
    return (phi.exp() * squared - phi).mean()


@dataclass(frozen=True)
class ContinuousConsistency(Recipe):
    """Lu & Song 2024, arXiv 2410.11081, Algorithm 1: sCD with ``source`` "teacher", sCT with "data".

    tan(u)·sigma_data is log-normal with ``mean`` and ``std``. The second part of the tangent comes in over ``warmup``
    steps. For ``tangent`` and ``h`` see :func:`.tangents.directional_derivative`.
    """

    student: Optimizer = Optimizer(1e-4, "radam", betas=(0.9, 0.99))
    weight: Optimizer = Optimizer(1e-3, "adam", clip=0.0)
    source: Literal["teacher", "data"] = "teacher"
    sigma_data: float = 0.5
    mean: float = -1.0
    std: float = 1.4
    c: float = 0.1
    warmup: int = 10_000
    tangent: Tangent = "forward"
    h: float = 0.01

    def __post_init__(self):
        if not (self.sigma_data > 0 and self.std > 0 and self.c > 0 and self.warmup >= 0 and self.h > 0):
            raise ValueError(
                "scm needs sigma_data, std, c and h above 0 and warmup of at least 0, got "
                f"{self.sigma_data}, {self.std}, {self.c}, {self.h} and {self.warmup}"
            )

    def networks(self, teacher: Denoiser) -> dict:
        """The student, the weight of its loss, and the teacher where it gives the velocity."""
        networks = {"student": student_of(teacher), "weight": LossWeight()}
        return networks | ({"teacher": teacher_of(teacher)} if self.source == "teacher" else {})

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Algorithm 1."""
        sigma_data, x0, z, conditioning = self.sigma_data, batch.x, self.sigma_data * batch.normal(), batch.conditioning
        u = self._angles(networks.student.schedule, batch.gaussians())
        cos, sin = per_sample(torch.cos(u), x0), per_sample(torch.sin(u), x0)
        x, dx_du = cos * x0 + sin * z, cos * z - sin * x0
        if self.source == "teacher":
            with torch.no_grad():
                dx_du = trig_velocity(networks.teacher, x, u, sigma_data, conditioning)
        student = unwrapped(networks.student)

        def network(x, u):
            return trig_velocity(student, x, u, sigma_data, conditioning)

        f_minus, df_du = directional_derivative(network, (x, u), (dx_du, torch.ones_like(u)), self.tangent, self.h)
        warmup = min(1.0, batch.step / self.warmup) if self.warmup else 1.0
        g = normalised(scm_tangent(f_minus, df_du, x, dx_du, u, warmup), self.c)
        f = trig_velocity(networks.student, x, u, sigma_data, conditioning)
        yield ("student", "weight"), scm_loss(f / sigma_data, f_minus / sigma_data, g, networks.weight(u))

    def _angles(self, schedule, z: Tensor) -> Tensor:
        """u [b] of unit Gaussian numbers; within the schedule, also where differences reach ``h`` to both sides."""
        u = torch.atan(torch.exp(self.mean + self.std * z) / self.sigma_data)
        margin = 1.001 * self.h if self.tangent == "finite" else 1e-4
        return u.clamp(margin, math.atan(schedule.ratio(1.0) / self.sigma_data) - margin)

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled: from sigma/alpha = 80, as in the paper."""
        return consistency_plan(student, steps, 80.0)
