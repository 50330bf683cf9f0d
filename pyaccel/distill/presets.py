"""Settings of the recipes for small models and short trainings, such as those of the zoo.

The recipes' own defaults are their papers', for large models and weeks of GPUs.
"""

from __future__ import annotations

import dataclasses

from ..training.optimizers import Optimizer
from ..training.recipe import Recipe
from ..training.trainer_config import TrainerConfig
from .add import ADD
from .ayf import AlignYourFlow
from .consistency import Consistency
from .consistency_fm import ConsistencyFM
from .ctm import CTM
from .dmd import DMD
from .dmd2 import DMD2
from .knowledge import KnowledgeDistillation
from .ladd import LADD
from .lcm import LCM
from .meanflow import MeanFlow
from .progressive import ProgressiveDistillation
from .scm import ContinuousConsistency
from .shortcut import Shortcut

_RATE = Optimizer(3e-4, "adam", warmup=100, decay="cosine")
_GAN_RATE = Optimizer(1e-4, "adam", betas=(0.0, 0.99), clip=10.0)  # of networks that play against each other

PRESETS: dict[str, tuple[Recipe, TrainerConfig]] = {
    "add": (
        ADD(
            _GAN_RATE, dataclasses.replace(_GAN_RATE, learning_rate=3e-4), features="fashion-classifier",
            distillation=1.0,
        ),
        TrainerConfig(steps=4000, batch_size=64, ema=(0.995,)),
    ),
    "ayf": (AlignYourFlow(_RATE, warmup=1000, tangent="finite", h=0.05), TrainerConfig(steps=4000)),
    "consistency": (
        Consistency(_RATE, levels=10, most_levels=80, mean=-0.5, std=1.6),
        TrainerConfig(steps=4000),
    ),
    "consistency-fm": (ConsistencyFM(_RATE, delta=0.01, boundary=0.0, source="teacher"), TrainerConfig(steps=4000)),
    "ctm": (
        # Denoising is what the teacher can do already: its gradient is small, and balanced it would drown the rest.
        CTM(_RATE, _GAN_RATE, solver_steps=3, dsm=0.1, gan=0.03, gan_start=2000, adaptive=False),
        TrainerConfig(steps=4000),
    ),
    "dmd": (
        DMD(_GAN_RATE, _GAN_RATE, distance="pseudo-huber"),
        TrainerConfig(steps=4000, batch_size=64, ema=(0.995,), flip=False),
    ),
    "dmd2": (
        DMD2(_GAN_RATE, _GAN_RATE, ratio=2, calls=2, gan=0.03, gan_critic=0.1),
        TrainerConfig(steps=4000, batch_size=64, ema=(0.995,)),
    ),
    "kd": (KnowledgeDistillation(_RATE), TrainerConfig(steps=6000, flip=False)),
    "ladd": (
        LADD(_GAN_RATE, dataclasses.replace(_GAN_RATE, learning_rate=3e-4), warmup=200, r1=0.01),
        TrainerConfig(steps=4000, batch_size=64, ema=(0.995,)),
    ),
    "lcm": (
        # Networks of the zoo are told t in [0, 1], and without guidance when nothing is said.
        LCM(_RATE, least_guidance=1.0, most_guidance=2.0, timestep_scaling=10_000.0),
        TrainerConfig(steps=4000),
    ),
    "meanflow": (
        # The teacher's velocity has no variance: a power of 1 would leave all weight to the pairs that are solved.
        MeanFlow(
            _RATE, equal=0.25, mean=0.2, std=2.0, power=0.5, velocity="teacher", tangent="finite", h=0.05,
        ),
        TrainerConfig(steps=4000),
    ),
    "progressive": (
        ProgressiveDistillation(Optimizer(3e-4, "adam", decay="linear", cycle=1000), start_steps=16, phase=1000),
        TrainerConfig(steps=5000),
    ),
    "scm": (
        ContinuousConsistency(_RATE, Optimizer(1e-3, "adam", clip=0.0), warmup=1000, tangent="finite", h=0.02),
        TrainerConfig(steps=4000),
    ),
    "shortcut": (
        Shortcut(_RATE, most_steps=32, bootstrap_every=2, label_dropout=0.0, initial="teacher", velocity="teacher"),
        TrainerConfig(steps=4000, ema=(0.99,)),
    ),
}  # fmt: skip
