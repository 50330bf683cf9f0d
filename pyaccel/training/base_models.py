"""How each base model of the zoo is trained: its architecture, recipe and settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .losses import Classification, Denoising
from .optimizers import Optimizer
from .trainer_config import TrainerConfig


@dataclass(frozen=True)
class BaseModel:
    """All that ``pyaccel train NAME`` needs to know; ``schedule`` and ``prediction`` are empty for a classifier."""

    architecture: str
    recipe: Denoising | Classification
    config: TrainerConfig
    options: dict[str, Any] = field(default_factory=dict)
    schedule: str = ""
    prediction: str = ""


_RATE = Optimizer(1e-3, weight_decay=0.01, warmup=200, decay="cosine")

BASE_MODELS: dict[str, BaseModel] = {
    "fashion-dit": BaseModel(
        "DiT", Denoising(_RATE, "logit-normal"), TrainerConfig(steps=6000),
        {"width": 128, "depth": 10, "heads": 4, "patch": 4}, "flow", "flow",
    ),
    "fashion-unet": BaseModel(
        "UNet", Denoising(_RATE), TrainerConfig(steps=5000), {"width": 32, "multipliers": [1, 2, 4]},
        "vp_linear", "epsilon",
    ),
    "fashion-classifier": BaseModel(
        "Classifier", Classification(), TrainerConfig(steps=2400, ema=(0.99,), bf16=False),
    ),
}  # fmt: skip
