"""Feature caching: where · when · how. Each published method is a choice of the three."""

from .engine import Cache, Summary, attach
from .how import How, taylor
from .taylorseer import taylorseer
from .when import every
from .where import Site, branches

CACHES = {"taylorseer": taylorseer}

__all__ = ["CACHES", "Cache", "How", "Site", "Summary", "attach", "branches", "every", "taylor", "taylorseer"]
