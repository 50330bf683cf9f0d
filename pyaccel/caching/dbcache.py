"""FBCache (ParaAttention's first-block cache) and DBCache (cache-dit), which has several blocks at both ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from .attaching import attach
from .engine import Cache
from .how import How, reuse, taylor
from .moment import Moment
from .ranges import first_blocks, spans
from .when import positive, whole_number


@dataclass(frozen=True)
class Near:
    """Predicts while what the first blocks add differs by less than ``threshold`` (relative, L1) from what they added
    in the last full step. The guards: after ``warmup`` steps, at most ``most`` predicted steps in a run, ``in_a_row``
    one after the other, and while the differences since the last full step add up to less than ``total``.
    """

    threshold: float
    warmup: int = 1
    most: float = math.inf
    in_a_row: float = math.inf
    total: float = math.inf

    def __call__(self, moment: Moment) -> bool:
        """Whether the step is computed in full."""
        if moment.step < self.warmup or moment.hits >= self.most or moment.since > self.in_a_row:
            return self._computed(moment)
        change = moment.change()
        added = moment.memory.get("added", 0.0) + change
        if not (change < self.threshold and added < self.total):
            return self._computed(moment)
        moment.memory["added"] = added
        return False

    @staticmethod
    def _computed(moment: Moment) -> bool:
        moment.memory["added"] = 0.0
        return True


def fbcache(model: nn.Module, threshold: float = 0.08, steps: int | None = None, **settings) -> Cache:
    """Computes the first block in every step and the others only where what it adds has changed.

    Args:
        model: a transformer with lists of blocks.
        threshold: of Σ|r − r'|/Σ|r'|, r what the first block adds and r' the same in the last full step; 0.05 to 0.12.
        steps: of a run, where nothing announces a StepContext and the times say nothing.
        settings: ``memory``, ``offload`` and ``group``, as in :func:`pyaccel.caching.attach`.

    One number a step is read from the device.
    """
    return _dual(
        f"fbcache(threshold={threshold})", model, 1, 0, Near(positive("threshold", threshold)), reuse(), steps, settings
    )


def dbcache(
    model: nn.Module,
    front: int = 8,
    back: int = 0,
    threshold: float = 0.08,
    warmup: int = 8,
    most: int | None = None,
    in_a_row: int | None = None,
    total: float | None = None,
    order: int = 0,
    steps: int | None = None,
    **settings,
) -> Cache:
    """The ``front`` first blocks are computed in every step and decide; the ``back`` last are computed too.

    Args:
        model: a transformer with lists of blocks.
        front, back: F and B of cache-dit's FnBn.
        threshold: as in :func:`fbcache`, for what the front blocks add.
        warmup: full steps at the start.
        most, in_a_row, total: the most predicted steps, the most without a full one between, and the largest sum of
            differences; None is no limit.
        order: of the polynomial in the middle blocks' residual; 0 reuses it.
        steps, settings: as in :func:`fbcache`.
    """
    whole_number("front", front), whole_number("back", back, least=0), whole_number("warmup", warmup, least=0)
    limits = [math.inf if limit is None else limit for limit in (most, in_a_row, total)]
    rule = Near(positive("threshold", threshold), warmup, *limits)
    how = taylor(order) if order else reuse()
    method = f"dbcache(front={front}, back={back}, threshold={threshold})"
    return _dual(method, model, front, back, rule, how, steps, settings)


def _dual(method, model, front: int, back: int, rule: Near, how: How, steps: int | None, settings: dict) -> Cache:
    probe = first_blocks(model, front)
    where = spans(model, front, -back or None, probe=probe)
    return attach(method, model, where=where, when=rule, how=how, steps=steps, **settings)
