"""LADD: a student in few steps by a discriminator on its teacher's own features of noisy samples."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from ..denoiser import Denoiser
from ..training.batch import Batch
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, frozen
from .add import distillation_loss
from .discriminators import Discriminator, discriminator_step_loss, hinge_generator_loss
from .features import Watched, all_blocks, block_widths, example_of
from .few_times import TIMES, FewTimes, check_shares, check_times, drawn_times, student_times, with_noise
from .students import student_of, teacher_of


@dataclass(frozen=True)
class LADD(FewTimes):
    """Sauer et al. 2024, arXiv 2403.12015.

    The student denoises data at one of ``times``, drawn with ``first_shares`` in the first ``warmup`` steps and then
    with ``shares``; the first time is pure noise. Its samples and the data get the same noise, of a time that is
    logit-normal with ``mean`` and ``std``, and a discriminator of a head on each of the teacher's ``blocks`` (none: on
    all of them) compares the features of both by a hinge loss, with ``r1`` times R1 on the heads' inputs. The paper's
    data are the teacher's samples: a folder of pyaccel teacher; images do as well. ``distillation`` is ADD's, which the
    paper leaves out.

    Heads are conditioned on the time; on ``label``, of ``classes`` classes (0: as many as the teacher's network says
    that it has); and on a text embedding called ``text`` in the data, of ``text_width``. ``widths`` are the channels of
    the blocks' features, found out for pyaccel's own networks; one number is for all blocks.
    """

    student: Optimizer = Optimizer(1e-5, weight_decay=0.01)
    discriminator: Optimizer = Optimizer(1e-4, betas=(0.0, 0.99), weight_decay=0.01)
    times: tuple[float, ...] = TIMES
    first_shares: tuple[float, ...] = (0.0, 0.0, 0.5, 0.5)
    shares: tuple[float, ...] = (0.7, 0.1, 0.1, 0.1)
    warmup: int = 500
    mean: float = 1.0
    std: float = 1.0
    r1: float = 0.1
    distillation: float = 0.0
    blocks: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    classes: int = 0
    text: str = ""
    text_width: int = 0

    def __post_init__(self):
        check_times("ladd", self.times)
        for shares in (self.first_shares, self.shares):
            check_shares("ladd", self.times, shares)
        least = min(self.distillation, self.r1, self.classes, self.warmup)
        if least < 0 or self.std <= 0 or bool(self.text) != (self.text_width > 0):
            raise ValueError(
                "ladd needs weights, classes and warmup of at least 0, std > 0, and text_width with text, got "
                f"{self.distillation}, {self.r1}, {self.classes}, {self.warmup}, {self.std}, {self.text!r} and "
                f"{self.text_width}"
            )

    def networks(self, teacher: Denoiser) -> dict:
        """The student, the discriminator, and the teacher, whose features that sees."""
        student, network = student_of(teacher), teacher.model
        blocks = self.blocks or all_blocks(network)
        widths = self.widths or block_widths(network, blocks, *example_of(network))
        widths = widths * len(blocks) if len(widths) == 1 else widths
        if len(widths) != len(blocks):
            raise ValueError(f"ladd needs one width for all of {len(blocks)} blocks or one for each, got {widths}")
        discriminator = Discriminator(
            widths,
            classes=self.classes or getattr(network, "classes", 0),
            given={self.text: self.text_width} if self.text else {},
            timed=True,
        )
        watched = teacher_of(dataclasses.replace(teacher, model=Watched(network, blocks)))
        return {"student": student, "discriminator": discriminator, "teacher": watched}

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Section 3 and 4."""
        student, schedule, conditioning, x0 = networks.student, networks.student.schedule, batch.conditioning, batch.x
        shares = self.first_shares if batch.step < self.warmup else self.shares
        t, pure = drawn_times(batch.uniform(), student_times(student, self.times), shares)
        x_t = with_noise(schedule, x0, batch.normal(), t, pure)
        s, noise = torch.sigmoid(self.mean + self.std * batch.gaussians()), batch.normal()
        told = schedule.model_time(s).to(x0.dtype)

        sample = student.predict("sample", x_t, t, **conditioning).to(x0.dtype)
        teacher = networks.teacher.model  # without guidance
        fake = teacher(schedule.add_noise(sample, noise, s), told, features=True, **conditioning)
        with frozen(networks.discriminator) as discriminator:
            loss = hinge_generator_loss(discriminator(fake, s, **conditioning)[0])
        if self.distillation:
            again, u = batch.normal(), batch.uniform()
            loss = loss + self.distillation * distillation_loss(networks.teacher, sample, again, u, conditioning)
        yield "student", loss

        with torch.no_grad():
            real = teacher(schedule.add_noise(x0, noise, s), told, features=True, **conditioning)
        yield "discriminator", discriminator_step_loss(networks.discriminator, real, fake, self.r1, s, **conditioning)
