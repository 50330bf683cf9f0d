"""ADD: a student in few steps by a discriminator on a pretrained network's features, and by its teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..training.batch import Batch
from ..training.optimizers import Optimizer
from ..training.recipe import Losses, Networks, frozen
from .discriminators import Discriminator, discriminator_step_loss, hinge_generator_loss
from .feature_networks import FeatureNetwork, feature_network, pooled
from .features import example_of
from .few_times import TIMES, FewTimes, check_times, drawn_times, student_times, with_noise
from .students import per_sample, student_of, teacher_of


def distillation_loss(teacher: Denoiser, sample: Tensor, noise: Tensor, s: Tensor, conditioning: dict) -> Tensor:
    """mean c(s)·(x − sg x̂(alpha·sg x + sigma·noise, s))², c = alpha(s), with x̂ the teacher's x0 (eq. 4).

    ``sample`` x [b, ...] with its graph, ``noise`` [b, ...], s [b], held to the schedule's times of finite log-SNR.
    """
    s = s.clamp(teacher.schedule.t_min, teacher.schedule.t_max)
    with torch.no_grad():
        noisy = teacher.schedule.add_noise(sample, noise, s)
        target = teacher.predict("sample", noisy, s, **conditioning).to(sample.dtype)
    return (per_sample(teacher.schedule.alpha(s), sample) * (sample - target).square()).mean()


@dataclass(frozen=True)
class ADD(FewTimes):
    """Sauer et al. 2023, arXiv 2311.17042.

    The student denoises data at one of ``times``, uniformly drawn, of which the first is pure noise. A discriminator of
    a head on each of several blocks of a frozen network compares its samples with the data by a hinge loss, with ``r1``
    times R1 on the heads' inputs; ``distillation`` weighs the squared distance to what the teacher makes of the samples
    with noise, the mean over their elements.

    ``features``: fashion-classifier (one channel; other sizes are resized to 28), or dinov2 (by the package timm;
    resized to 224); from Python any network, by :meth:`networks`. Heads are conditioned on ``label``, of ``classes``
    classes (0: as many as the teacher's network says that it has); on a text embedding called ``text`` in the data, of
    ``text_width``; and with ``image`` on the feature network's pooled features of the image that was made noisy, but
    for pure noise, which knows none. ``widths`` are the channels of the features of each of its blocks, found out where
    the teacher's network or the feature network knows the size and the channels of samples.
    """

    student: Optimizer = Optimizer(1e-5, weight_decay=0.01)
    discriminator: Optimizer = Optimizer(1e-4, betas=(0.0, 0.99), weight_decay=0.01)
    features: str = "dinov2"
    times: tuple[float, ...] = TIMES
    distillation: float = 2.5
    r1: float = 1e-5
    image: bool = True
    classes: int = 0
    text: str = ""
    text_width: int = 0
    widths: tuple[int, ...] = ()

    def __post_init__(self):
        check_times("add", self.times)
        if min(self.distillation, self.r1, self.classes) < 0 or bool(self.text) != (self.text_width > 0):
            raise ValueError(
                "add needs weights and classes of at least 0, and text_width with text, got "
                f"{self.distillation}, {self.r1}, {self.classes}, {self.text!r} and {self.text_width}"
            )

    def networks(self, teacher: Denoiser, features: FeatureNetwork | None = None) -> dict:
        """The student, the discriminator, the feature network (``features`` instead of its own), and the teacher.

        ValueError where the feature network does not take what the teacher makes.
        """
        features = feature_network(self.features) if features is None else features
        widths = self.widths or features.widths(*example_of(teacher.model)[:1])
        if len(widths) != len(features.blocks):
            raise ValueError(f"add needs a width for each of {len(features.blocks)} blocks of features, got {widths}")
        given = {self.text: self.text_width} if self.text else {}
        discriminator = Discriminator(
            widths,
            classes=self.classes or getattr(teacher.model, "classes", 0),
            given=given | ({"image": widths[-1]} if self.image else {}),
        )
        return {
            "student": student_of(teacher), "discriminator": discriminator, "features": features,
            "teacher": teacher_of(teacher),
        }  # fmt: skip

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Section 3.2 and 3.3."""
        student, schedule, conditioning, x0 = networks.student, networks.student.schedule, batch.conditioning, batch.x
        shares = [1 / len(self.times)] * len(self.times)
        t, pure = drawn_times(batch.uniform(), student_times(student, self.times), shares)
        x_t = with_noise(schedule, x0, batch.normal(), t, pure)
        with torch.no_grad():
            real = networks.features(x0)
        given = conditioning
        if self.image:
            image = pooled(real)
            given = conditioning | {"image": torch.where(pure[:, None], torch.zeros_like(image), image)}

        sample = student.predict("sample", x_t, t, **conditioning).to(x0.dtype)
        fake = networks.features(sample)
        with frozen(networks.discriminator) as discriminator:
            loss = hinge_generator_loss(discriminator(fake, **given)[0])
        if self.distillation:
            noise, s = batch.normal(), batch.uniform()
            loss = loss + self.distillation * distillation_loss(networks.teacher, sample, noise, s, conditioning)
        yield "student", loss

        yield "discriminator", discriminator_step_loss(networks.discriminator, real, fake, self.r1, **given)
