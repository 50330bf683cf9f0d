"""TaylorSeer (Liu et al. 2025, arXiv 2503.06923)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..names import look_up
from .attaching import attach
from .engine import Cache
from .how import HOWS
from .ranges import spans
from .when import every
from .where import Site, branches


def taylorseer(
    model: nn.Module,
    interval: int = 5,
    order: int = 2,
    warmup: int = 3,
    steps: int | None = None,
    where: Iterable[Site] | str | None = None,
    how: str = "taylor",
    **settings,
) -> Cache:
    """Polynomial extrapolation of every attention and MLP branch from its last full computations.

    Args:
        model: any transformer or U-Net that :func:`pyaccel.caching.branches` recognises, or another with ``where``.
        interval: compute in full every ``interval``-th step.
        order: of the polynomial, 0 (plain reuse) to 8; order + 1 features are kept for each branch.
        warmup: steps at the start that are computed in full; differences are formed from the last of them on.
        steps: steps of a run; only needed where nothing announces the StepContext and the times say nothing.
        where: the sites, by default all branches that are recognised; "last_block" remembers nothing but the output of
            the last block (the paper's light form).
        how: "taylor", the paper's differences; "newton", the polynomial through the last features, exact on uneven
            steps; "hermite", as in HiCache; "reuse".
        settings: ``memory``, ``offload``, ``coordinate`` and ``group``, as in :func:`pyaccel.caching.attach`.

    Returns a context manager with ``summary()``. Raises ValueError for options out of range and for a model without
    recognised branches.
    """
    predict = look_up("prediction", how, HOWS)(order, first=warmup - 1)
    when = every(interval, after=warmup)
    if where is None:
        where = branches(model)
    elif isinstance(where, str):
        where = look_up("place", where, _PLACES)(model)
    name = "taylorseer" if how == "taylor" else how
    return attach(
        f"{name}(interval={interval}, order={order})",
        model,
        where=where,
        when=when,
        how=predict,
        steps=steps,
        **settings,
    )


_PLACES = {"branches": branches, "last_block": lambda model: spans(model, residual=False)}
