"""DMD: the student's distribution follows the teacher's, by two scores; pairs of the teacher keep all modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..denoiser import Denoiser, repeated
from ..solvers import Plan
from ..training.batch import Batch
from ..training.distances import distance_of
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe, unwrapped
from .students import consistency_plan, per_sample, student_of, teacher_of


def distribution_matching_loss(sample: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """½·mean (x − sg(x − g))² with g = (x̂_fake − x̂_real)/mean|x − x̂_real|, whose gradient by x is g/(elements).

    ``sample`` x [b, ...] with its graph; ``real`` and ``fake`` [b, ...], what the teacher and the critic make of x with
    noise (Yin et al. 2023, arXiv 2311.18828, eq. 7 and 8 as their pseudo-code has them, without a factor alpha).
    """
    with torch.no_grad():
        scale = (sample - real).abs().flatten(1).mean(1).clamp_min(1e-6)
        gradient = torch.nan_to_num((fake - real) / per_sample(scale, sample))
    return 0.5 * F.mse_loss(sample, (sample - gradient).detach())


def fake_score_loss(fake: Denoiser, sample: Tensor, noise: Tensor, s: Tensor, sigma_data: float, conditioning: dict):
    """mean (1/u² + 1/sigma_data²)·(x̂_fake − x)² at the noise levels u = sigma/alpha of the times s [b] (eq. 6).

    ``sample`` x and ``noise`` [b, ...], without graphs. The weight is EDM's; of an infinite ``sigma_data`` the SNR.
    """
    noisy = fake.schedule.add_noise(sample, noise, s)
    weight = fake.schedule.ratio(s) ** -2 + sigma_data**-2
    error = fake.predict("sample", noisy, s, **conditioning).to(sample.dtype) - sample
    return (per_sample(weight, sample) * error.square()).mean()


@dataclass(frozen=True)
class DMD(Recipe):
    """Yin et al. 2023, arXiv 2311.18828, Algorithm 1, on the data of ``pyaccel teacher``.

    The student makes samples of fresh noise, at which the scores of the teacher and of the student's own samples
    (``fake``, trained beside it) are compared, at times uniform in [``least``, ``most``]; and samples of the pairs'
    noise, whose ``distance`` to the pairs' images counts ``regression`` times. The paper's distance is "lpips", for
    images that this is made for. ``sigma_data``, the data's standard deviation, enters the fake score's weight; inf is
    the paper's choice for Stable Diffusion, the SNR.
    """

    student: Optimizer = Optimizer(5e-5, weight_decay=0.01, clip=10.0)
    fake: Optimizer = Optimizer(5e-5, weight_decay=0.01, clip=10.0)
    regression: float = 0.25
    distance: Literal["l1", "l2", "pseudo-huber", "lpips"] = "l2"
    least: float = 0.02
    most: float = 0.98
    sigma_data: float = 0.5

    pairs = True

    def __post_init__(self):
        if not 0 <= self.least < self.most <= 1 or self.regression < 0 or not self.sigma_data > 0:
            raise ValueError(
                "dmd needs 0 <= least < most <= 1, regression of at least 0 and sigma_data > 0, got "
                f"{self.least}, {self.most}, {self.regression} and {self.sigma_data}"
            )

    def networks(self, teacher: Denoiser) -> dict:
        """The student, the score of its samples, and the teacher."""
        return {"student": student_of(teacher), "fake": student_of(teacher), "teacher": teacher_of(teacher)}

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Algorithm 1."""
        student, schedule, conditioning = networks.student, networks.student.schedule, batch.conditioning
        start = self.plan(student, 1).times[0]
        # Both in one call, which ranks that share gradients wait for.
        noise = torch.cat([batch.normal(), batch.noise])
        t = torch.full((len(noise),), start, device=noise.device, dtype=noise.dtype)
        samples = student.predict("sample", schedule.sigma(start) * noise, t, **repeated(conditioning, 2))
        sample, of_pairs = samples.to(noise.dtype).chunk(2)

        s = self.least + (self.most - self.least) * batch.uniform()
        with torch.no_grad():
            noisy = schedule.add_noise(sample, batch.normal(), s)
            real = networks.teacher.predict("sample", noisy, s, **conditioning)
            fake = unwrapped(networks.fake).predict("sample", noisy, s, **conditioning)
        distance = distance_of(self.distance, noise.device)
        apart = distance(of_pairs, batch.x).mean()
        yield "student", distribution_matching_loss(sample, real, fake) + self.regression * apart

        # Uniform in (0, 1) but for its ends, where levels are 0 and infinite.
        s = schedule.t_min + (schedule.t_max - schedule.t_min) * batch.uniform()
        sample = sample.detach()
        yield "fake", fake_score_loss(networks.fake, sample, batch.normal(), s, self.sigma_data, conditioning)

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled; it has learned one step."""
        return consistency_plan(student, steps)
