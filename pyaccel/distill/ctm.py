"""CTM: consistency trajectory models, which jump from any time to any earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser, repeated
from ..schedules import Schedule
from ..solvers import Plan
from ..solvers.students import ctm
from ..training.batch import Batch
from ..training.distances import distance_of
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, Recipe, frozen, module_of, unwrapped
from .balance import adaptive_weights, last_layer, watched, with_gradient
from .consistency import karras_levels, teacher_step
from .critics import Critic, SampleCritic
from .discriminators import hinge_discriminator_loss
from .progressive import ddim_step
from .students import ddim_transfer, start_of, student_of, teacher_of


def jump(student: Denoiser, x: Tensor, t: Tensor, s: Tensor, conditioning: dict) -> Tensor:
    """G(x, t, s) = (s/t)·x + (1 − s/t)·g(x, t, s) in sigma/alpha, for the times t [b] and s [b] (eq. 9).

    The network is told both times and predicts g as x0.
    """
    return ddim_step(student, x, t, s, {**conditioning, "to": s})


def solver_steps(number: float, most: int) -> int:
    """How many steps the teacher makes, of 1 ... ``most``, i with probability ∝ i, from a number in [0, 1)."""
    shares = torch.arange(1, most + 1, dtype=torch.float64).cumsum(0)
    return 1 + min(most - 1, int(torch.searchsorted(shares, number * shares[-1], right=True)))


def denoising_levels(batch: Batch, least: float, most: float, rho: float) -> Tensor:
    """Noise levels [b] of the denoising loss: one half log-normal (−1.2, 1.2), the other of large ones.

    These are uniform in Karras's rho-th roots over the 70 % next to ``most``.
    """
    x = batch.x
    z, u = batch.gaussians().double(), batch.uniform().double()
    low, high = least ** (1 / rho), most ** (1 / rho)
    large = (high + 0.7 * u * (low - high)) ** rho
    place = torch.arange(batch.places.start, batch.places.stop, device=x.device)
    return torch.where(place % 2 == 0, torch.exp(-1.2 + 1.2 * z), large).clamp(least, most)


def denoising_loss(sample: Tensor, x0: Tensor, level: Tensor, sigma_data: float) -> Tensor:
    """mean of (sigma² + sigma_data²)/(sigma·sigma_data)²·‖g − x0‖², sigma the noise levels [b] (Karras 2022, eq. 5)."""
    weight = (level.square() + sigma_data**2) / (level * sigma_data).square()
    return (weight.to(x0.dtype) * (sample - x0).flatten(1).square().mean(1)).mean()


@dataclass(frozen=True)
class CTM(Recipe):
    """Kim et al. 2023, arXiv 2310.02279, Algorithm 4.

    ``levels`` noise levels by Karras's rule lie between ``least`` and ``most``; t, u and s are among them. The teacher
    makes at most ``solver_steps`` of Heun's steps from t to u, by default all that there are. Beside the distance (the
    paper's is lpips, for images) stand denoising with the weight ``dsm`` and, from the step ``gan_start`` on, the
    discriminator with ``gan``, by a hinge loss where the paper writes logarithms. Unless ``adaptive`` is off, both are
    multiplied by the ratio of the gradients' norms at ``last_layer``, which is found out by default; of a batch that is
    accumulated, each part has weights of its own. ``bottleneck`` and ``width`` are those of :class:`.critics.Critic`,
    ``gamma`` is that of the solver ``ctm``.
    """

    student: Optimizer = Optimizer(4e-4, "radam")
    discriminator: Optimizer = Optimizer(2e-3, "adam", betas=(0.0, 0.99))
    distance: Literal["l1", "l2", "pseudo-huber", "lpips"] = "pseudo-huber"
    levels: int = 18
    least: float = 0.002
    most: float = 80.0
    rho: float = 7.0
    solver_steps: int = 0
    dsm: float = 1.0
    sigma_data: float = 0.5
    gan: float = 1.0
    gan_start: int = 10_000
    adaptive: bool = True
    last_layer: str = ""
    bottleneck: str = ""
    width: int = 0
    gamma: float = 0.0

    def __post_init__(self):
        if self.levels < 2 or not 0 < self.least < self.most or not 0 <= self.solver_steps < self.levels:
            raise ValueError(
                "ctm needs at least 2 levels, 0 < least < most and 0 <= solver_steps < levels, got "
                f"{self.levels}, {self.least}, {self.most} and {self.solver_steps}"
            )
        if min(self.dsm, self.gan, self.gan_start) < 0 or self.sigma_data <= 0 or not 0 <= self.gamma <= 1:
            raise ValueError(
                "ctm needs dsm, gan and gan_start of at least 0, sigma_data > 0 and gamma in [0, 1], got "
                f"{self.dsm}, {self.gan}, {self.gan_start}, {self.sigma_data} and {self.gamma}"
            )

    def networks(self, teacher: Denoiser, discriminator: nn.Module | None = None) -> dict:
        """The student with two times, the discriminator ``D(x, **conditioning) -> [b]``, and the teacher.

        The discriminator that is there by default is a copy of the teacher's network with a head on one of its blocks.
        """
        if discriminator is None:
            critic = Critic(student_of(teacher).model, self.bottleneck or None, self.width or None)
            schedule = teacher.schedule
            discriminator = SampleCritic(critic, float(schedule.model_time(schedule.time_of_ratio(self.least))))
        student = student_of(teacher, second_time=True)
        last_layer(student.model, self.last_layer)
        return {"student": student, "discriminator": discriminator, "teacher": teacher_of(teacher)}

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """One step of Algorithm 4, and one of the discriminator."""
        adversarial = self.gan > 0 and batch.step >= self.gan_start
        loss, estimate = self._student_loss(networks, batch, adversarial)
        yield "student", loss
        if adversarial:
            both = torch.cat([batch.x, estimate.to(batch.x.dtype)])
            real, fake = networks.discriminator(both, **repeated(batch.conditioning, 2)).chunk(2)
            yield "discriminator", hinge_discriminator_loss([real], [fake])

    def _student_loss(self, networks: Networks, batch: Batch, adversarial: bool) -> tuple[Tensor, Tensor]:
        """(the student's loss, its estimates of x0 without a graph)."""
        student, average, schedule = networks.student, networks.ema["student"], networks.student.schedule
        x0, conditioning = batch.x, batch.conditioning
        x_t, x_u, t, u, s, end = self._points(networks.teacher, schedule, batch)
        level = denoising_levels(batch, self.least, self._most(schedule), self.rho)
        tau = schedule.time_of_ratio(level)
        noisy = schedule.add_noise(x0, batch.normal(), tau)
        with torch.no_grad():
            target = jump(unwrapped(student), x_u, u, s, conditioning)
            target = jump(average, target, s, end, conditioning)

        # Jumps and denoising (a jump of no width) in one call.
        layer = last_layer(module_of(unwrapped(student)), self.last_layer)
        inputs, times, to = torch.cat([x_t, noisy]), torch.cat([t, tau]), torch.cat([s, tau])
        with watched(layer) as calls:
            sample = student.predict("sample", inputs, times, to=to, **repeated(conditioning, 2))
        if len(calls) != 1:
            raise ValueError(
                f"ctm needs a last layer that is called once, and {type(layer).__name__} was called {len(calls)} "
                "times: name the network's last linear or convolutional layer by last_layer='...'"
            )
        ((given, output),) = calls
        jumped, denoised = sample.chunk(2)
        estimate = jump(average, ddim_transfer(schedule, x_t, jumped, t, s), s, end, conditioning)
        losses = [distance_of(self.distance, x0.device)(estimate, target).mean()]
        weights: list[float | Tensor] = [1.0]
        if self.dsm:
            losses.append(denoising_loss(denoised, x0, level, self.sigma_data))
            weights.append(self.dsm)
        if adversarial:
            with frozen(networks.discriminator) as discriminator:
                losses.append(-discriminator(estimate.to(x0.dtype), **conditioning).mean())
            weights.append(self.gan)

        # The gradients by x0 are what the weights are made of, and all that the network behind it has to be told.
        gradients = [torch.autograd.grad(loss, sample, retain_graph=True)[0] for loss in losses]
        if self.adaptive:
            of_output = [torch.autograd.grad(sample, output, g, retain_graph=True)[0] for g in gradients]
            factors = list(adaptive_weights(layer, given, of_output))
            if adversarial:
                factors[-1] = factors[-1].clamp(0.01, 10.0)  # as in the authors' code
            weights = [weight * factor for weight, factor in zip(weights, factors, strict=True)]
        gradient = sum(weight * g for weight, g in zip(weights, gradients, strict=True))
        total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        return with_gradient(total, sample, gradient), estimate.detach()

    def _most(self, schedule: Schedule) -> float:
        return min(self.most, schedule.ratio(1.0))

    def _points(self, teacher: Denoiser, schedule: Schedule, batch: Batch) -> tuple[Tensor, ...]:
        """(x_t, x_u, t, u, s, the last time), t > u >= s: x_u is where the teacher leads from x_t; times are [b]."""
        x0 = batch.x
        levels = karras_levels(self.levels - 1, self.least, self._most(schedule), self.rho).flip(0).to(x0.device)
        times = schedule.time_of_ratio(levels)
        steps = solver_steps(batch.number(), self.solver_steps or self.levels - 1)
        first = (batch.uniform().double() * (self.levels - steps)).long()
        last = first + steps
        place = last + (batch.uniform().double() * (self.levels - last)).long()
        x = x_t = schedule.add_noise(x0, batch.normal(), times[first])
        for i in range(steps):
            x = teacher_step(teacher, x, times[first + i], times[first + i + 1], batch.conditioning)
        return x_t, x, times[first], times[last], times[place], times[-1].expand(len(x0))

    def plan(self, student: Denoiser, steps: int) -> Plan:
        """How the student is sampled: gamma-sampling from the largest level that it was trained on."""
        start = start_of(student.schedule, self.most)
        return ctm(student.schedule, steps, prediction=student.prediction, gamma=self.gamma, **start)
