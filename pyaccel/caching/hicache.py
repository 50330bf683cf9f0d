"""HiCache (Feng et al. 2025, arXiv 2508.16984)."""

from __future__ import annotations

from torch import nn

from .attaching import attach
from .engine import Cache
from .how import hermite
from .when import every
from .where import branches


def hicache(
    model: nn.Module,
    interval: int = 5,
    order: int = 2,
    warmup: int = 3,
    scale: float = 0.7,
    steps: int | None = None,
    **settings,
) -> Cache:
    """TaylorSeer with scaled Hermite polynomials instead of powers, which do not grow as fast.

    Args:
        model, interval, order, warmup, steps: as in :func:`pyaccel.caching.taylorseer`.
        scale: σ in (0, 1); the paper uses 0.5 to 0.7.
        settings: as in :func:`pyaccel.caching.attach`.
    """
    how = hermite(order, first=warmup - 1, scale=scale)
    method = f"hicache(interval={interval}, order={order}, scale={scale})"
    where = branches(model)
    return attach(method, model, where=where, when=every(interval, after=warmup), how=how, steps=steps, **settings)
