"""How rates change over a training: that of learning, and that of the average of the weights."""

from __future__ import annotations

import math
from typing import Literal

Decay = Literal["constant", "cosine", "linear"]


def warmed_up(rate: float, step: int, *, warmup: int, steps: int, decay: Decay = "cosine", least: float = 0.0) -> float:
    """Linear warm-up to ``rate``; then it stays, or falls to the share ``least`` of it at the last step."""
    if step < warmup:
        return rate * (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, steps - warmup))
    left = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share}[decay]
    return rate * (least + (1 - least) * left)


def ema_rate(most: float, step: int) -> float:
    """A warmed-up rate: early on, the average reaches back over a tenth of the training and no further."""
    return min(most, (1 + step) / (10 + step))
