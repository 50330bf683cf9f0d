"""How each base model of the zoo is trained: its architecture, loss and settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import schedules
from . import losses
from .trainer import TrainerConfig


@dataclass(frozen=True)
class Recipe:
    """All that ``pyaccel train NAME`` needs to know; ``schedule`` and ``prediction`` are empty for a classifier."""

    architecture: str
    config: TrainerConfig
    options: dict[str, Any] = field(default_factory=dict)
    schedule: str = ""
    prediction: str = ""
    times: Callable = losses.uniform_times

    def loss(self) -> Callable:
        """The loss that the Trainer calls."""
        if not self.prediction:
            return losses.classification
        return losses.denoising(schedules.from_name(self.schedule), self.prediction, self.times)


RECIPES: dict[str, Recipe] = {
    "fashion-dit": Recipe(
        "DiT",
        TrainerConfig(steps=6000, learning_rate=1e-3, weight_decay=0.01),
        {"width": 128, "depth": 10, "heads": 4, "patch": 4},
        "flow",
        "flow",
        losses.logit_normal_times,
    ),
    "fashion-unet": Recipe(
        "UNet",
        TrainerConfig(steps=5000, learning_rate=1e-3, weight_decay=0.01),
        {"width": 32, "multipliers": [1, 2, 4]},
        "vp_linear",
        "epsilon",
        losses.uniform_times,
    ),
    "fashion-classifier": Recipe("Classifier", TrainerConfig(steps=2400, learning_rate=3e-3, bf16=False, ema=0.99)),
}
