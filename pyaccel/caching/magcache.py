"""MagCache (Ma et al. 2025, arXiv 2506.09045)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from .attaching import attach
from .calibration import Calibration
from .engine import Cache
from .how import reuse
from .moment import Moment
from .ranges import spans


@dataclass(frozen=True)
class Magnitudes:
    """Predicts while the magnitude of the residual, multiplied up from calibrated ratios, has moved by at most
    ``threshold`` in all, at most ``in_a_row`` steps one after the other, and not in the first ``retention`` of a run.
    """

    ratios: tuple[float, ...]
    threshold: float
    in_a_row: int
    retention: float

    def __call__(self, moment: Moment) -> bool:
        """Whether the step is computed in full."""
        steps = moment.steps or len(self.ratios)
        ratio = self.ratios[min(len(self.ratios) - 1, round(moment.step * (len(self.ratios) - 1) / max(1, steps - 1)))]
        product, error, count = moment.memory.get("magnitude", (1.0, 0.0, 0))
        product *= ratio
        error, count = error + abs(1 - product), count + 1
        full = moment.step < self.retention * steps or error > self.threshold or count > self.in_a_row
        moment.memory["magnitude"] = (1.0, 0.0, 0) if full else (product, error, count)
        return full


def magcache(
    model: nn.Module,
    ratios: Sequence[float] | Calibration | str | os.PathLike,
    threshold: float = 0.24,
    in_a_row: int = 5,
    retention: float = 0.1,
    steps: int | None = None,
    **settings,
) -> Cache:
    """Leaves all blocks out as long as the size of what they add is known to change little; nothing is measured.

    Args:
        model: a transformer with lists of blocks.
        ratios: γ for each step, mean(‖r_t‖/‖r_(t−1)‖) over the tokens, or a Calibration of this model, or its
            file; with another
            number of steps the nearest are taken.
        threshold: of the summed |1 − Π γ|.
        in_a_row: K, the most predicted steps one after the other.
        retention: the share of steps at the start that are computed.
        steps: of a run, where nothing announces a StepContext.
        settings: ``memory``, ``offload`` and ``group``, as in :func:`pyaccel.caching.attach`.

    The defaults are the authors' for FLUX. Raises ValueError for options out of range.
    """
    where = spans(model)
    found = Calibration.of(ratios, model)
    if found is not None:
        ratios = found.magnitudes
    ratios = tuple(map(float, ratios))
    if not ratios or not all(r > 0 for r in ratios):
        raise ValueError("ratios must be numbers above 0, one for each step")
    if not threshold > 0 or not 0 <= retention <= 1:
        raise ValueError(f"expected threshold > 0 and retention from 0 to 1, got {threshold!r} and {retention!r}")
    rule = Magnitudes(ratios, threshold, in_a_row, retention)
    return attach(f"magcache(threshold={threshold}, in_a_row={in_a_row})", model, where=where, when=rule,
                  how=reuse(), steps=steps, **settings)  # fmt: skip
