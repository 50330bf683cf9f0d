"""Feature caching: where · when · how. Each published method is a choice of the three."""

from .engine import Cache, attach
from .how import How, hermite, newton, reuse, taylor
from .moment import Moment, When
from .statistics import Summary
from .taylorseer import taylorseer
from .when import every, full_steps, mask, on_steps
from .where import Probe, Site, branches

CACHES = {"taylorseer": taylorseer}

__all__ = [
    "CACHES", "Cache", "How", "Moment", "Probe", "Site", "Summary", "When", "attach", "branches", "every", "full_steps",
    "hermite", "mask", "newton", "on_steps", "reuse", "taylor", "taylorseer",
]  # fmt: skip
