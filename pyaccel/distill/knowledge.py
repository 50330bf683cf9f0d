"""Knowledge distillation: one call learns what the teacher's whole trajectory leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..solvers import Plan
from ..training.batch import Batch
from ..training.distances import Distance, distance_of
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe
from .students import consistency_plan, student_of


def knowledge_loss(student: Denoiser, noise: Tensor, target: Tensor, distance: Distance, conditioning: dict) -> Tensor:
    """½·d(G(z), x0) of unit noise z [b, ...] and the teacher's samples x0 [b, ...] from it (Luhman & Luhman 2021)."""
    start = consistency_plan(student, 1).times[0]
    t = torch.full((len(noise),), start, device=noise.device, dtype=noise.dtype)
    sample = student.predict("sample", student.schedule.sigma(start) * noise, t, **conditioning)
    return 0.5 * distance(sample, target).mean()


@dataclass(frozen=True)
class KnowledgeDistillation(Recipe):
    """Luhman & Luhman 2021, arXiv 2101.02388, on the data of ``pyaccel teacher``."""

    student: Optimizer = Optimizer(1e-4, warmup=100, decay="cosine")
    distance: Literal["l1", "l2", "pseudo-huber", "lpips"] = "l2"

    pairs = True

    def networks(self, teacher: Denoiser) -> dict:
        """The student."""
        return {"student": student_of(teacher)}

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Algorithm 1 there."""
        distance = distance_of(self.distance, batch.x.device)
        yield "student", knowledge_loss(networks.student, batch.noise, batch.x, distance, batch.conditioning)

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled; it has learned one step."""
        return consistency_plan(student, steps)
