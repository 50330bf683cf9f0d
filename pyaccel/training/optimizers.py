"""What the optimizer of a network is, and how its learning rate goes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from .rates import Decay, warmed_up


@dataclass(frozen=True)
class Optimizer:
    """The optimizer of one network of a recipe.

    Attributes:
        learning_rate: The largest.
        kind: With decoupled weight decay but for adam and sgd.
        betas: Of all kinds but sgd.
        weight_decay: 0 for none.
        clip: The largest norm of a gradient; 0 for no limit.
        warmup: Steps over which the rate rises linearly.
        decay: Whether it stays then, or falls to zero at the last step.
        cycle: Rise and fall begin anew after so many steps; 0 for never.
    """

    learning_rate: float = 1e-4
    kind: Literal["adamw", "adam", "radam", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: int = 0
    decay: Decay = "constant"
    cycle: int = 0

    def __post_init__(self):
        if not self.learning_rate > 0 or self.weight_decay < 0 or self.clip < 0 or min(self.warmup, self.cycle) < 0:
            raise ValueError(
                "an optimizer needs learning_rate > 0, and weight_decay, clip, warmup and cycle of at least 0, got "
                f"{self.learning_rate}, {self.weight_decay}, {self.clip}, {self.warmup} and {self.cycle}"
            )

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of torch."""
        settings = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.kind == "sgd":
            return torch.optim.SGD(parameters, **settings)
        if self.kind == "radam":
            return torch.optim.RAdam(parameters, betas=self.betas, decoupled_weight_decay=True, **settings)
        parameters = list(parameters)
        make = torch.optim.AdamW if self.kind == "adamw" else torch.optim.Adam
        return make(parameters, betas=self.betas, fused=_fusable(parameters), **settings)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at step number ``step`` of ``steps``."""
        if self.cycle:
            step, steps = step % self.cycle, self.cycle
        return warmed_up(self.learning_rate, step, warmup=self.warmup, steps=steps, decay=self.decay)

    @property
    def depends_on_steps(self) -> bool:
        """Whether a run of other length takes other steps from the beginning on."""
        return self.decay != "constant" and not self.cycle

    @property
    def limit(self) -> float:
        """The largest norm of a gradient, infinite where there is none."""
        return self.clip or math.inf


def _fusable(parameters: list[nn.Parameter]) -> bool:
    # One kernel for all parameters; it does not know sharded ones.
    from torch.distributed.tensor import DTensor

    return not any(isinstance(p, DTensor) for p in parameters)
