"""The settings of a training that are no recipe's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainerConfig:
    """What decides the result of a training beside recipe, networks and data. Equal settings give equal bits on a CPU.

    Attributes:
        steps: Of the training.
        batch_size: Of all ranks together.
        accumulate: Parts into which each rank's share is cut, one after the other; their gradients are added.
        ema: Rates of the averages of the weights; the first is the one that is looked at.
        bf16: Autocast; the weights stay as they are.
        flip: Mirror half of the images, where the data are images.
        seed: Of all that is random.
    """

    steps: int
    batch_size: int = 128
    accumulate: int = 1
    ema: tuple[float, ...] = (0.999,)
    bf16: bool = True
    flip: bool = True
    seed: int = 0

    def __post_init__(self):
        if min(self.steps, self.batch_size, self.accumulate) < 1:
            raise ValueError(
                "training needs steps, batch_size and accumulate of at least 1, got "
                f"{self.steps}, {self.batch_size} and {self.accumulate}"
            )
        if not self.ema or not all(0 <= rate < 1 for rate in self.ema):
            raise ValueError(f"ema needs one rate or more in [0, 1), got {self.ema}")
