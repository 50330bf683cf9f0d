"""Align Your Flow: flow maps between any two times, learned from a tangent of the map."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..solvers import Plan
from ..solvers.students import flow_map
from ..training.batch import Batch
from ..training.checkpoints import load_tensors
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe, module_of, unwrapped
from .scm import normalised
from .students import per_sample, require_flow, student_of, teacher_of
from .tangents import Tangent, directional_derivative, trajectory_derivative, within


def autoguided(strong: Tensor, weak: Tensor, weight: Tensor) -> Tensor:
    """λ·v + (1 − λ)·v_weak of velocities [b, ...] and λ [b] (eq. 3)."""
    return weak + per_sample(weight, weak) * (strong - weak)


def map_tangent(f: Tensor, v: Tensor, slope: Tensor, t: Tensor, s: Tensor, r: float) -> Tensor:
    """g = (v − F) + r·(s − t)·slope of a flow map x + (s − t)·F from t to s (section 3.4, eq. 4); [b, ...], t, s [b].

    With v at (x, t) and the slope dF/dt along the trajectory it is d/dt of the map where r is 1: 0 where it does not
    matter at which point of a trajectory the map begins. With v where the map leads and the slope −dF/ds it is v − d/ds
    of the map: 0 where its end follows the trajectory.
    """
    return (v - f) + r * per_sample(s - t, f) * slope


@dataclass(frozen=True)
class AlignYourFlow(Recipe):
    """Sabour et al. 2025, arXiv 2506.14603, Algorithm 1.

    ``objective``: Eulerian map distillation (the start of the map moves) or Lagrangian (its end moves; worse on
    images). With the weight 1/|t − s| their gradient is that of ‖F − sg(F + g)‖². The tangent g is normalised, and its
    derivative comes in over ``warmup`` steps, up to the factor ``most_warmup``: below 1 some flow matching remains. The
    length t − s is logit-normal with ``mean`` and ``std``, and where it lies is uniform.

    Autoguidance by a weaker teacher: ``weak`` is a file of weights for the teacher's network, of a shorter training; a
    Denoiser may also stand as ``weak`` beside the networks. λ is drawn between the two ``lambdas`` for a student whose
    network takes ``guidance`` [b], and is their mean for others. For ``tangent`` and ``h`` see
    :func:`.tangents.directional_derivative`.
    """

    student: Optimizer = Optimizer(1e-4, "radam", betas=(0.9, 0.99))
    objective: Literal["emd", "lmd"] = "emd"
    mean: float = -0.6
    std: float = 1.6
    c: float = 0.1
    warmup: int = 10_000
    most_warmup: float = 0.99
    weak: str = ""
    lambdas: tuple[float, float] = (1.0, 3.0)
    tangent: Tangent = "forward"
    h: float = 0.01

    def __post_init__(self):
        if not (self.std > 0 and self.c > 0 and self.warmup >= 0 and self.h > 0):
            raise ValueError(
                "ayf needs std, c and h above 0 and warmup of at least 0, got "
                f"{self.std}, {self.c}, {self.h} and {self.warmup}"
            )
        if not 0 <= self.most_warmup <= 1 or len(self.lambdas) != 2 or self.lambdas[0] > self.lambdas[1]:
            raise ValueError(
                f"ayf needs most_warmup in [0, 1] and two rising lambdas, got {self.most_warmup} and {self.lambdas}"
            )

    def networks(self, teacher: Denoiser) -> dict:
        """The student with two times, the teacher, and a weaker one where its weights are given."""
        require_flow("ayf", teacher)
        networks = {"student": student_of(teacher, second_time=True), "teacher": teacher_of(teacher)}
        if self.weak:
            networks["weak"] = student_of(teacher)
            module_of(networks["weak"]).load_state_dict(load_tensors(self.weak)[0])
        return networks

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Algorithm 1."""
        x0, noise, conditioning = batch.x, batch.normal(), batch.conditioning
        length = torch.sigmoid(self.mean + self.std * batch.gaussians())
        s = (1 - length) * batch.uniform()
        t = s + length
        x = per_sample(1 - t, x0) * x0 + per_sample(t, x0) * noise
        weak, student, weight = getattr(networks, "weak", None), unwrapped(networks.student).model, None
        told = conditioning
        if weak is not None:
            low, high = self.lambdas
            weight = torch.full_like(t, 0.5 * (low + high))
            if "guidance" in inspect.signature(student.forward).parameters:
                weight = low + (high - low) * batch.uniform()
                told = {**conditioning, "guidance": weight}

        def network(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return student(x, t, to=s, **told).to(x.dtype)

        @torch.no_grad()
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            strong = networks.teacher(x, t, **conditioning).to(x.dtype)
            return strong if weak is None else autoguided(strong, weak(x, t, **conditioning).to(x.dtype), weight)

        eulerian, how = self.objective == "emd", self.tangent
        if eulerian:
            v = velocity(x, t)
            slope = trajectory_derivative(lambda x, t: network(x, t, s), x, t, v, how, self.h)
        else:
            inside = within(s, how, self.h)
            slope = -directional_derivative(lambda s: network(x, t, s), (inside,), (torch.ones_like(s),), how, self.h)[
                1
            ]
        # After all other calls of the student: shards of what this one keeps for its gradients are still needed.
        f = networks.student(x, t, to=s, **told).to(x.dtype)
        value = f.detach()
        if not eulerian:
            v = velocity(x + per_sample(s - t, x) * value, s)
        r = min(self.most_warmup, batch.step / self.warmup) if self.warmup else self.most_warmup
        g = normalised(map_tangent(value, v, slope, t, s, r), self.c)
        yield "student", (f - (value + g)).square().mean()

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled: the map from time to time. Their sampling with gamma is ``solvers.ctm``."""
        return flow_map(student.schedule, steps, prediction=student.prediction)
