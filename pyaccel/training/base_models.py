"""How each base model of the zoo is trained: its architecture, recipe and settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .losses import Classification, Denoising
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


BASE_MODELS: dict[str, BaseModel] = {
    "fashion-dit": BaseModel(
        "DiT", Denoising(times="logit-normal"), TrainerConfig(steps=6000),
        {"width": 128, "depth": 10, "heads": 4, "patch": 4}, "flow", "flow",
    ),
    "fashion-unet": BaseModel(
        "UNet", Denoising(), TrainerConfig(steps=5000), {"width": 32, "multipliers": [1, 2, 4]},
        "vp_linear", "epsilon",
    ),
    "fashion-classifier": BaseModel(
        "Classifier", Classification(), TrainerConfig(steps=2400, ema=(0.99,), bf16=False),
    ),
}  # fmt: skip
