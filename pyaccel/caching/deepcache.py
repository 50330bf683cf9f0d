"""DeepCache (Ma et al. 2024, arXiv 2312.00858)."""

from __future__ import annotations

import math

from torch import nn

from .attaching import attach
from .engine import Cache
from .how import reuse
from .moment import Moment, When
from .unet import below_branch
from .when import every, on_steps, whole_number


def deepcache(
    model: nn.Module,
    interval: int = 3,
    branch: int = 0,
    center: int | None = None,
    power: float = 1.2,
    steps: int | None = None,
    **settings,
) -> Cache:
    """Recomputes the shallow layers of a U-Net in every step and what lies below one skip branch in few.

    Args:
        model: a U-Net of the forms that :func:`pyaccel.caching.below_branch` knows.
        interval: N; all is computed in every N-th step, or in as many steps around ``center``.
        branch: 0 is the outermost, which leaves out most; DeepCache's "cache_block_id, cache_layer_id" counted through.
        center: the paper's non-uniform schedule: full steps lie densest around this one.
        power: how much denser (p of the paper's section 3.3).
        steps: of a run; needed with ``center`` where nothing announces a StepContext.
        settings: ``memory``, ``offload`` and ``group``, as in :func:`pyaccel.caching.attach`.

    Raises ValueError for options out of range and for a model that is no U-Net.
    """
    when = every(interval) if center is None else centred(interval, center, power)
    method = f"deepcache(interval={interval}, branch={branch})"
    return attach(method, model, where=[below_branch(model, branch)], when=when, how=reuse(), steps=steps, **settings)


def centred(interval: int, center: int, power: float = 1.2) -> When:
    """About steps/interval full steps, densest around ``center``: the steps ⌊l^p + c⌋ for l evenly spaced between
    (−c)^(1/p) and (T − c)^(1/p), with the sign taken out of the powers (section 3.3)."""
    whole_number("interval", interval), whole_number("center", center, least=0)
    if not power >= 1:
        raise ValueError(f"power must be at least 1, got {power!r}")
    known: dict[int, frozenset[int]] = {}

    def when(moment: Moment) -> bool:
        if moment.steps is None:
            raise ValueError("center= needs the number of steps: give steps=")
        if moment.steps not in known:
            known[moment.steps] = frozenset(_centred_steps(moment.steps, interval, center, power))
        return on_steps(known[moment.steps].__contains__)(moment)

    return when


def _centred_steps(steps: int, interval: int, center: int, power: float) -> list[int]:
    if center >= steps:
        raise ValueError(f"center must be below the {steps} steps of the run, got {center}")
    count = -(-steps // interval)
    low, high = -(center ** (1 / power)), (steps - center) ** (1 / power)
    points = [low + (high - low) * i / count for i in range(count)]
    return sorted({0, *(int(center + math.copysign(abs(x) ** power, x)) for x in points)})
