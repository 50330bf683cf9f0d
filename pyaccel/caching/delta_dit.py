"""Delta-DiT (Chen et al. 2024, arXiv 2406.01125)."""

from __future__ import annotations

from torch import nn

from .attaching import attach
from .engine import Cache
from .how import reuse
from .moment import Moment
from .ranges import blocks, spans
from .when import every, whole_number


def delta_dit(
    model: nn.Module,
    interval: int = 2,
    boundary: int | float = 0.5,
    count: int | None = None,
    steps: int | None = None,
    **settings,
) -> Cache:
    """Reuses what a range of blocks adds: of the late blocks while the outline is drawn, of the early ones afterwards.

    Args:
        model: a transformer with lists of blocks.
        interval: N; all is computed in every N-th step.
        boundary: b, the first step of the second stage; a fraction is of the run's steps.
        count: how many blocks are left out; by default three quarters of them, as in the paper (21 of 28).
        steps: of a run; needed for a fraction where nothing announces a StepContext.
        settings: ``memory``, ``offload`` and ``group``, as in :func:`pyaccel.caching.attach`.

    Raises ValueError for options out of range and for a model without lists of blocks.
    """
    total = len(blocks(model))
    count = max(1, round(0.75 * total)) if count is None else whole_number("count", count)
    if count > total:
        raise ValueError(f"count must be at most {total}, the blocks of this {type(model).__name__}, got {count}")
    if (isinstance(boundary, float) and not 0 <= boundary <= 1) or boundary < 0:
        raise ValueError(f"boundary must be a step, or a fraction of the steps from 0 to 1, got {boundary!r}")
    due = every(interval)

    def outline(moment: Moment) -> bool:
        if not isinstance(boundary, float):
            return moment.step < boundary
        if moment.steps is None:
            raise ValueError("a boundary as a fraction needs the number of steps: give steps=, or the boundary's step")
        return moment.step < boundary * moment.steps

    # Outside of its stage a range is computed; what it adds is remembered in full steps alone, when all of it is true.
    def late(moment: Moment) -> bool | None:
        return due(moment) if outline(moment) else None

    def early(moment: Moment) -> bool | None:
        return due(moment) or (None if outline(moment) else False)

    where = [*spans(model, -count, when=late), *spans(model, 0, count, when=early)]
    method = f"delta_dit(interval={interval}, boundary={boundary}, count={count})"
    return attach(method, model, where=where, when=due, how=reuse(), steps=steps, **settings)
