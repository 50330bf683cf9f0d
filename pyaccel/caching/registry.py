"""The caches by their names, and the options that each has."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from .attaching import attach
from .auto import auto
from .blockcache import blockcache
from .dbcache import dbcache, fbcache
from .deepcache import deepcache
from .delta_dit import delta_dit
from .dicache import dicache
from .easycache import easycache
from .engine import Cache
from .fora import fora
from .hicache import hicache
from .magcache import magcache
from .pab import pab
from .speca import speca
from .taylorseer import taylorseer
from .teacache import teacache

CACHES: dict[str, Callable[..., Cache]] = {
    "auto": auto,
    "taylorseer": taylorseer,
    "fora": fora,
    "deepcache": deepcache,
    "delta_dit": delta_dit,
    "blockcache": blockcache,
    "fbcache": fbcache,
    "dbcache": dbcache,
    "teacache": teacache,
    "magcache": magcache,
    "hicache": hicache,
    "pab": pab,
    "easycache": easycache,
    "dicache": dicache,
    "speca": speca,
}
"""Each is a function from a model and its options to a Cache."""


def options_of(make: Callable[..., Cache]) -> dict[str, inspect.Parameter] | None:
    """The options of such a function by name; None for one of yours that takes any."""
    parameters = dict(list(inspect.signature(make).parameters.items())[1:])
    rest = [name for name, p in parameters.items() if p.kind is p.VAR_KEYWORD]
    if rest and make not in CACHES.values():
        return None
    for name in rest:  # these go on to attach()
        del parameters[name]
        settings = inspect.signature(attach).parameters
        parameters |= {key: settings[key] for key in ("memory", "offload", "coordinate", "group")}
    return parameters
