"""PAB, pyramid attention broadcast (Zhao et al. 2024, arXiv 2408.12588)."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from .attaching import attach
from .engine import Cache
from .how import reuse
from .moment import Moment, When
from .when import every, whole_number
from .where import Site, branches


def pab(
    model: nn.Module,
    spatial: int = 2,
    temporal: int = 4,
    cross: int = 6,
    mlp: int | None = None,
    between: tuple[float, float] = (0.1, 0.85),
    steps: int | None = None,
    **settings,
) -> Cache:
    """Each kind of attention is reused for its own number of steps, in the middle of a run, where it changes least.

    Args:
        model: any that :func:`pyaccel.caching.branches` recognises.
        spatial, temporal, cross: the intervals of self-attention over space, over time and of cross-attention. A module
            is temporal by its name, and cross where its keys are made of another width, or by its name (attn2, cross).
        mlp: the interval of the MLPs; None computes them always, as in the paper.
        between: the part of the steps in which outputs are reused.
        steps: of a run; needed where nothing announces a StepContext.
        settings: ``memory``, ``offload`` and ``group``, as in :func:`pyaccel.caching.attach`.
    """
    intervals = {"spatial": spatial, "temporal": temporal, "cross": cross, "mlp": mlp}
    for name, interval in intervals.items():
        if interval is not None:
            whole_number(name, interval)
    low, high = between
    if not 0 <= low < high <= 1:
        raise ValueError(f"between must be two shares of the steps, rising from 0 to 1, got {between!r}")
    rules = {name: _broadcast(interval, low, high) for name, interval in intervals.items() if interval is not None}
    where = [
        replace(site, when=rules[kind]) for site in branches(model) if (kind := kind_of_attention(site, model)) in rules
    ]
    if not where:
        raise ValueError(f"{type(model).__name__} has no attention outside of its ResNet blocks, and mlp= is None")
    method = f"pab(spatial={spatial}, temporal={temporal}, cross={cross})"
    return attach(method, model, where=where, when=every(1), how=reuse(), steps=steps, **settings)


def kind_of_attention(site: Site, model: nn.Module) -> str:
    """ "spatial", "temporal" or "cross" for an attention, otherwise the site's own kind."""
    if site.kind != "attention":
        return site.kind
    name = site.name.lower()
    path = site.name.split(".")
    owners = [type(model.get_submodule(".".join(path[:n]))).__name__.lower() for n in range(1, len(path) + 1)]
    if any("temp" in owner for owner in (name, *owners)):
        return "temporal"
    widths = [getattr(getattr(site.module, key, None), "in_features", None) for key in ("to_q", "to_k")]
    other_width = None not in widths and widths[0] != widths[1]
    return "cross" if other_width or "attn2" in name or "cross" in name else "spatial"


def _broadcast(interval: int, low: float, high: float) -> When:
    def when(moment: Moment) -> bool:
        if moment.steps is None:
            raise ValueError("pab needs the number of steps: give steps=")
        inside = low * moment.steps <= moment.step < high * moment.steps
        return not inside or moment.since >= interval

    return when
