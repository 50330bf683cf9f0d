"""TeaCache (Liu et al. 2024, arXiv 2411.19108)."""

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
from .ranges import modulated_input, spans
from .when import positive

FLUX = (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)
"""The coefficients that its authors publish for FLUX.1-dev, highest power first."""


@dataclass(frozen=True)
class Accumulated:
    """Predicts while the estimated changes since the last full step add up to less than ``threshold``.

    The estimate is a polynomial (highest power first) of how much the first block's modulated input has changed since
    the step before. The first and the last step are computed in full.
    """

    threshold: float
    polynomial: tuple[float, ...]

    def __call__(self, moment: Moment) -> bool:
        """Whether the step is computed in full."""
        memory = moment.memory
        estimate = 0.0
        change = moment.change("previous")
        for c in self.polynomial:
            estimate = estimate * change + c
        added = memory.get("added", 0.0) + abs(estimate)
        full = not added < self.threshold or moment.step + 1 == moment.steps
        memory["added"] = 0.0 if full else added
        return full


def teacache(
    model: nn.Module,
    threshold: float = 0.25,
    coefficients: Sequence[float] | Calibration | str | os.PathLike | None = None,
    steps: int | None = None,
    **settings,
) -> Cache:
    """Leaves all blocks out while the timestep embedding says that little has changed.

    Args:
        model: a transformer with lists of blocks, the first of which begins with a modulated attention.
        threshold: of the sum of estimated changes; the authors use 0.25 to 0.8 for FLUX.
        coefficients: of the polynomial, highest power first, such as ``caching.FLUX``; or a Calibration of this model
            (:func:`pyaccel.caching.calibrate`), or its file, which has fitted it; None takes the change itself.
        steps: of a run, where nothing announces a StepContext.
        settings: ``memory``, ``offload`` and ``group``, as in :func:`pyaccel.caching.attach`.

    One number a step is read from the device.
    """
    positive("threshold", threshold)
    where = spans(model, probe=modulated_input(model))
    found = Calibration.of(coefficients, model)
    if found is not None:
        coefficients = found.polynomial
    rule = Accumulated(threshold, (1.0, 0.0) if coefficients is None else tuple(map(float, coefficients)))
    return attach(f"teacache(threshold={threshold})", model, where=where, when=rule, how=reuse(), steps=steps,
                  **settings)  # fmt: skip
