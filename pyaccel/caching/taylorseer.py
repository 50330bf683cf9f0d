"""TaylorSeer (Liu et al. 2025, arXiv 2503.06923)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .engine import Cache, attach
from .how import taylor
from .when import every
from .where import Site, branches


def taylorseer(
    model: nn.Module,
    interval: int = 5,
    order: int = 2,
    warmup: int = 3,
    steps: int | None = None,
    where: Iterable[Site] | None = None,
) -> Cache:
    """Polynomial extrapolation of every attention and MLP branch from its last full computations.

    Args:
        model: any transformer or U-Net that :func:`pyaccel.caching.branches` recognises, or another with ``where``.
        interval: compute in full every ``interval``-th step.
        order: of the polynomial, 0 (plain reuse) to 8; order + 1 features are kept for each branch.
        warmup: steps at the start that are computed in full; differences are formed from the last of them on.
        steps: steps of a run; only needed where nothing announces the StepContext and the times say nothing.
        where: the sites, by default all that are recognised.

    Returns a context manager with ``summary()``. Raises ValueError for options out of range and for a model without
    recognised branches.
    """
    when = every(interval, after=warmup)
    return attach(
        f"taylorseer(interval={interval}, order={order})",
        model,
        where=branches(model) if where is None else where,
        when=when,
        how=taylor(order, first=warmup - 1),
        steps=steps,
    )
