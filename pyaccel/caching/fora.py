"""FORA (Selvaraju et al. 2024, arXiv 2407.01425)."""

from __future__ import annotations

from torch import nn

from .attaching import attach
from .engine import Cache
from .how import reuse
from .when import every
from .where import branches


def fora(model: nn.Module, interval: int = 3, steps: int | None = None, **settings) -> Cache:
    """Reuses the output of every attention and MLP branch, before its gate, between every ``interval``-th step.

    ``settings`` are ``memory``, ``offload`` and ``group``, as in :func:`pyaccel.caching.attach`.
    """
    where = branches(model)
    return attach(f"fora(interval={interval})", model, where=where, when=every(interval), how=reuse(), steps=steps,
                  **settings)  # fmt: skip
