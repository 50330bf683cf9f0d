"""MeanFlow: the network is the average velocity between two times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..denoiser import Denoiser, unconditioned
from ..solvers import Plan
from ..solvers.students import flow_map
from ..training.batch import Batch
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe, unwrapped
from .students import per_sample, require_flow, student_of, teacher_of
from .tangents import Tangent, trajectory_derivative


def meanflow_target(
    network, x: Tensor, v: Tensor, t: Tensor, r: Tensor, conditioning: dict, tangent: Tangent = "forward", h=0.01
) -> Tensor:
    """u_tgt = v − (t − r)·du/dt with du/dt = v·∂_x u + ∂_t u, r held (eq. 10); no gradient flows.

    x, v [b, ...]; t, r [b]; ``network(x, t, to=r, **conditioning)`` is the average velocity u.
    """

    def u(x, t):
        return network(x, t, to=r, **conditioning)

    return v - per_sample(t - r, x) * trajectory_derivative(u, x, t, v, tangent, h)


def adaptive_loss(error: Tensor, power: float, eps: float) -> Tensor:
    """mean of w·‖Δ‖² with w = sg(‖Δ‖² + eps)^−p, ‖Δ‖² the sum over the elements of a sample (section 4.3)."""
    squared = error.flatten(1).square().sum(1)
    return (squared / (squared.detach() + eps).pow(power)).mean()


@dataclass(frozen=True)
class MeanFlow(Recipe):
    """Geng et al. 2025, arXiv 2505.13447, Algorithm 1.

    A share ``equal`` of the pairs has r = t, where no derivative is needed and none is computed. Both times are
    logit-normal with ``mean`` and ``std``. ``power`` and ``eps`` are p and c of the adaptive weight. ``velocity`` is
    what the flow's velocity is: that of the data's own pairs, or the teacher's with its guidance (at a teacher's
    guidance of 1 both have the same mean, and the teacher's has less variance). ``omega`` and ``kappa`` are those of
    guidance folded into the target, by omega/(1 − kappa) in all, for training on data. For ``tangent`` and ``h`` see
    :func:`.tangents.directional_derivative`.
    """

    student: Optimizer = Optimizer(1e-4, "adamw", warmup=100)
    equal: float = 0.75
    mean: float = -0.4
    std: float = 1.0
    power: float = 1.0
    eps: float = 0.01
    velocity: Literal["data", "teacher"] = "data"
    omega: float = 1.0
    kappa: float = 0.0
    label_dropout: float = 0.0
    tangent: Tangent = "forward"
    h: float = 0.01

    def __post_init__(self):
        if not 0 <= self.equal <= 1 or not 0 <= self.label_dropout < 1 or self.h <= 0 or self.std <= 0:
            raise ValueError(
                f"meanflow needs equal in [0, 1], label_dropout in [0, 1), h > 0 and std > 0, got {self.equal}, "
                f"{self.label_dropout}, {self.h} and {self.std}"
            )
        guided = (self.omega, self.kappa) != (1.0, 0.0)
        if guided and self.velocity == "teacher":
            raise ValueError("omega and kappa guide the data's velocity; the teacher's has the teacher's guidance")
        if not 0 <= self.kappa < 1:
            raise ValueError(f"meanflow needs kappa in [0, 1): it guides by omega/(1 - kappa); got {self.kappa}")

    def networks(self, teacher: Denoiser) -> dict:
        """The student with two times, and the teacher where it gives the velocity."""
        require_flow("meanflow", teacher)
        student = {"student": student_of(teacher, second_time=True)}
        return student | ({"teacher": teacher_of(teacher)} if self.velocity == "teacher" else {})

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Algorithm 1."""
        x0, noise, p = batch.x, batch.normal(), 1 - self.equal
        t, r = (torch.sigmoid(self.mean + self.std * batch.gaussians()) for _ in range(2))
        t, r = torch.maximum(t, r), torch.minimum(t, r)
        # Which samples have r = t depends on their places alone, and their number on nothing random.
        apart = [int((place + 1) * p) > int(place * p) for place in batch.places]
        r = torch.where(torch.tensor(apart, device=t.device), r, t)
        # Every rank makes the same calls, which shards wait for: a part without any takes one of those with r = t.
        apart = [i for i, is_apart in enumerate(apart) if is_apart] or [0]
        apart = torch.tensor(apart, device=t.device)
        conditioning = batch.dropped(networks.student.unconditional, self.label_dropout)
        x = per_sample(1 - t, x0) * x0 + per_sample(t, x0) * noise
        network = unwrapped(networks.student).model
        v = self._velocity(networks, network, x, noise - x0, t, conditioning)
        target = v
        if self.equal < 1:
            some = {name: value[apart] for name, value in conditioning.items()}
            moved = meanflow_target(network, x[apart], v[apart], t[apart], r[apart], some, self.tangent, self.h)
            target = v.index_copy(0, apart, moved.to(v.dtype))
        u = networks.student(x, t, to=r, **conditioning)
        yield "student", adaptive_loss(u.to(x.dtype) - target, self.power, self.eps)

    @torch.no_grad()
    def _velocity(self, networks: Networks, network, x: Tensor, v: Tensor, t: Tensor, conditioning: dict) -> Tensor:
        if self.velocity == "teacher":
            return networks.teacher(x, t, **conditioning).to(x.dtype)
        if (self.omega, self.kappa) == (1.0, 0.0):
            return v
        without = networks.student.unconditional
        nothing = unconditioned(conditioning, without)
        guided = self.omega * v + (1 - self.omega - self.kappa) * network(x, t, to=t, **nothing)
        if self.kappa:
            guided = guided + self.kappa * network(x, t, to=t, **conditioning)
        # Samples without a label learn the plain velocity.
        none = [(conditioning[k] == nothing[k]).reshape(len(x), -1).all(1) for k in without if k in conditioning]
        return torch.where(per_sample(torch.stack(none).all(0), v).bool(), v, guided.to(v.dtype)) if none else v

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled (Algorithm 2)."""
        return flow_map(student.schedule, steps, prediction=student.prediction)
