"""DMD2: the student's distribution follows the teacher's, by two scores and a discriminator on one of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops, predictions
from ..denoiser import Denoiser, repeated
from ..solvers import Plan
from ..training.batch import Batch
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe, frozen, unwrapped
from .critics import Critic
from .dmd import distribution_matching_loss
from .students import consistency_plan, per_sample, student_of, teacher_of


def generator_loss(fake: Tensor) -> Tensor:
    """mean softplus(−D(fake)) of logits [b] (Yin et al. 2024, arXiv 2405.14867, section 4.3)."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """mean softplus(D(fake)) + mean softplus(−D(real))."""
    return F.softplus(fake).mean() + F.softplus(-real).mean()


def simulate(student: Denoiser, times: list[float], last: int, draw, conditioning: dict) -> tuple[Tensor, Tensor]:
    """Backward simulation: (x, t) where the student's call number ``last`` begins when it samples on its own times.

    ``draw()`` gives unit noise [b, ...]. Runs without gradients: consistency multistep sampling (section 4.5).
    """
    schedule, noise = student.schedule, draw()
    x = schedule.sigma(times[0]) * noise
    ones = torch.ones(len(x), device=x.device, dtype=x.dtype)
    with torch.no_grad():
        for t, s in pairwise(times[: last + 1]):
            x0 = student.predict("sample", x, t * ones, **conditioning)
            x = ops.linear_combination([x0, draw()], [[schedule.alpha(s), schedule.sigma(s)]])[0]
    return x, times[last] * ones


@dataclass(frozen=True)
class DMD2(Recipe):
    """Yin et al. 2024, arXiv 2405.14867.

    The critic takes a step every time, the student every ``ratio``-th: two time scales instead of DMD's regression. The
    student is trained for ``calls`` model calls, each on what its own earlier calls lead to. The times at which
    distributions are compared are uniform in [``least``, ``most``]. ``gan`` weighs the student's adversarial loss,
    ``gan_critic`` the critic's; 0 and 0 leave it out. ``bottleneck`` and ``width`` are those of :class:`.Critic`, found
    out for pyaccel's own networks.
    """

    student: Optimizer = Optimizer(2e-6, weight_decay=0.01, clip=10.0)
    critic: Optimizer = Optimizer(2e-6, weight_decay=0.01, clip=10.0)
    ratio: int = 5
    calls: int = 1
    least: float = 0.02
    most: float = 0.98
    gan: float = 3e-3
    gan_critic: float = 1e-2
    bottleneck: str = ""
    width: int = 0

    def __post_init__(self):
        if (
            self.ratio < 1
            or self.calls < 1
            or not 0 <= self.least < self.most <= 1
            or min(self.gan, self.gan_critic) < 0
        ):
            raise ValueError(
                "dmd2 needs ratio and calls of at least 1, 0 <= least < most <= 1 and weights of at least 0, got "
                f"{self.ratio}, {self.calls}, {self.least}, {self.most}, {self.gan} and {self.gan_critic}"
            )
        if self.gan and not self.gan_critic:
            raise ValueError(f"dmd2: with gan={self.gan} and gan_critic=0 nobody teaches the discriminator")

    def networks(self, teacher: Denoiser) -> dict:
        """The student, the critic (a score of the student's samples with a discriminator's head), and the teacher."""
        critic = Critic(student_of(teacher).model, self.bottleneck or None, self.width or None)
        return {"student": student_of(teacher), "critic": critic, "teacher": teacher_of(teacher)}

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Algorithm 1 of DMD with the changes of DMD2."""
        schedule, conditioning = networks.student.schedule, batch.conditioning
        times = consistency_plan(networks.student, self.calls).times
        x, t = simulate(
            unwrapped(networks.student), times, int(batch.number() * self.calls), batch.normal, conditioning
        )
        training = batch.step % self.ratio == 0
        with torch.no_grad():
            sample = unwrapped(networks.student).predict("sample", x, t, **conditioning).to(x.dtype)
        yield "critic", self._critic_loss(networks, batch, sample)
        if not training:
            return
        sample = networks.student.predict("sample", x, t, **conditioning).to(x.dtype)
        noisy, _, s = self._with_noise(schedule, batch, sample)
        with torch.no_grad():
            real = networks.teacher.predict("sample", noisy, s, **conditioning)
        with frozen(networks.critic) as critic:
            output, logits = critic(noisy, schedule.model_time(s).to(noisy.dtype), **conditioning)
            fake = networks.teacher.read("sample", noisy, _mean(output, noisy), s).detach()
        loss = distribution_matching_loss(sample, real, fake)
        yield "student", loss + self.gan * generator_loss(logits) if self.gan else loss

    def _critic_loss(self, networks: Networks, batch: Batch, sample: Tensor) -> Tensor:
        """Denoising of the student's samples, and the discriminator between these and the data."""
        schedule, conditioning, both = networks.student.schedule, batch.conditioning, self.gan_critic > 0
        noisy, noise, s = self._with_noise(schedule, batch, sample)
        told = schedule.model_time(s).to(noisy.dtype)
        inputs, double = noisy, conditioning
        if both:  # real and generated ones in one call, with the same noise and times
            inputs = torch.cat([noisy, schedule.add_noise(batch.x, noise, s)])
            told, double = torch.cat([told, told]), repeated(conditioning, 2)
        output, logits = networks.critic(inputs, told, **double)
        alpha, sigma = (per_sample(f(s), sample) for f in (schedule.alpha, schedule.sigma))
        target = predictions.target(networks.teacher.prediction, sample, noise, alpha, sigma)
        loss = F.mse_loss(_mean(output, sample)[: len(sample)].to(target.dtype), target)
        if both:
            fake, real = logits.chunk(2)
            return loss + self.gan_critic * discriminator_loss(real, fake)
        return loss + 0.0 * logits.sum()  # ranks that share gradients wait for one of each parameter

    def _with_noise(self, schedule, batch: Batch, sample: Tensor):
        """(alpha·sample + sigma·noise, noise, s) at times s between ``least`` and ``most``."""
        s, noise = self.least + (self.most - self.least) * batch.uniform(), batch.normal()
        return schedule.add_noise(sample, noise, s), noise, s

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled."""
        return consistency_plan(student, steps)


def _mean(output: Tensor, like: Tensor) -> Tensor:
    """The output without the variance that some networks predict in further channels."""
    return output[:, : like.shape[1]]
