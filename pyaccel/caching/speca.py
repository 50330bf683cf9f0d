"""SpeCa (Liu et al. 2025, arXiv 2509.11628)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from .attaching import attach
from .engine import Cache
from .how import taylor
from .moment import Moment
from .ranges import blocks
from .when import every, whole_number
from .where import branches


@dataclass(frozen=True)
class Speculation:
    """Predicts up to ``in_a_row`` steps after the ``warmup``, as long as the verified block says so."""

    in_a_row: int
    warmup: int
    threshold: float
    decay: float

    def __call__(self, moment: Moment) -> bool:
        """Whether the step is computed in full, before anything is verified."""
        return every(self.in_a_row + 1, after=self.warmup)(moment) or moment.since > self.in_a_row

    def verified(self, moment: Moment, error: float) -> bool:
        """Whether a relative error is accepted: up to τ_0·β^(share of the run that is over) (eq. 8)."""
        progress = moment.step / max(1, (moment.steps or moment.step + 1) - 1)
        return error <= self.threshold * self.decay**progress


def speca(
    model: nn.Module,
    in_a_row: int = 5,
    order: int = 2,
    warmup: int = 3,
    threshold: float = 0.3,
    decay: float = 0.5,
    steps: int | None = None,
    **settings,
) -> Cache:
    """TaylorSeer's forecast of every branch, verified by computing the last block: a refused step is done in full.

    Args:
        model: a transformer with lists of blocks.
        in_a_row: the most predicted steps one after the other.
        order, warmup: as in :func:`pyaccel.caching.taylorseer`.
        threshold, decay: τ_0 and β of the accepted error Σ|predicted − computed|/Σ|computed| in the last block.
        steps: of a run, where nothing announces a StepContext.
        settings: as in :func:`pyaccel.caching.attach`.

    A number for each of the last block's branches is read from the device in each predicted step.
    """
    whole_number("in_a_row", in_a_row), whole_number("warmup", warmup)
    if not threshold > 0 or not 0 < decay <= 1:
        raise ValueError(f"expected threshold > 0 and decay in (0, 1], got {threshold!r} and {decay!r}")
    last = {id(m) for m in blocks(model)[-1].module.modules()}
    where = [replace(site, verify=id(site.module) in last) for site in branches(model)]
    rule = Speculation(in_a_row, warmup, threshold, decay)
    how = taylor(order, first=warmup - 1)
    return attach(f"speca(in_a_row={in_a_row}, order={order}, threshold={threshold})", model, where=where, when=rule,
                  how=how, steps=steps, **settings)  # fmt: skip
