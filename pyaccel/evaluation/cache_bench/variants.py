"""The rows of ``pyaccel bench caching``: caches with their settings, and solvers with fewer steps instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ... import caching
from ...caching import Cache, Calibration
from ...caching.ranges import is_unet
from ...names import look_up


@dataclass(frozen=True)
class Variant:
    """A cache with settings; ``calibrated`` names the option that takes the model's calibration."""

    method: str
    options: tuple[tuple[str, Any], ...]
    calibrated: str | None = None

    @property
    def name(self) -> str:
        """For the table."""
        settings = ", ".join(f"{key} {value}" for key, value in self.options)
        return f"{self.method}: {settings}"

    def make(self, model: nn.Module, calibration: Calibration | None) -> Cache:
        """The cache on ``model``; ``calibration`` is that of the model, where one is needed."""
        more = {self.calibrated: calibration} if self.calibrated else {}
        return caching.CACHES[self.method](model, **dict(self.options), **more)


def _of(method: str, calibrated: str | None = None, **options) -> Variant:
    return Variant(method, tuple(options.items()), calibrated)


_EVERYWHERE = [
    *(_of("auto", interval=n) for n in (3, 4, 5)),
    *(_of("fora", interval=n) for n in (3, 4, 5, 6)),
    *(_of("taylorseer", interval=n, order=2) for n in (3, 4, 5, 6)),
    *(_of("taylorseer", interval=n, order=1) for n in (3, 4, 5)),
    *(_of("taylorseer", interval=n, order=2, how="newton") for n in (3, 4, 5)),
    _of("taylorseer", interval=4, order=2, memory="int8"),
    *(_of("hicache", interval=n, order=2) for n in (4, 5)),
    *(_of("blockcache", "calibration", delta=d) for d in (0.1, 0.2, 0.4)),
    *(_of("easycache", threshold=t) for t in (0.05, 0.1)),
]
_TRANSFORMERS = [
    *(_of("taylorseer", interval=n, order=1, where="last_block") for n in (3, 4)),
    *(_of("delta_dit", interval=n) for n in (2, 3)),
    *(_of("fbcache", threshold=t) for t in (0.1, 0.2)),
    *(_of("dbcache", front=2, warmup=4, threshold=t, in_a_row=3) for t in (0.1, 0.2)),
    *(_of("teacache", "coefficients", threshold=t) for t in (0.1, 0.2)),
    *(_of("magcache", "ratios", threshold=t, in_a_row=4) for t in (0.06, 0.12)),
    *(_of("dicache", threshold=t) for t in (0.2, 0.4)),
    _of("speca", in_a_row=3, threshold=0.5),
    _of("pab", spatial=2, mlp=3),
]
_UNETS = [*(_of("deepcache", interval=n) for n in (2, 3, 5)), _of("deepcache", interval=3, branch=3)]


def variants(model: nn.Module, only: Sequence[str] | None = None) -> list[Variant]:
    """The rows for a model of the zoo; ``only`` names methods. ValueError, with the nearest name, for another."""
    found = [*_EVERYWHERE, *(_UNETS if is_unet(model) else _TRANSFORMERS)]
    if only is None:
        return found
    there = dict.fromkeys(variant.method for variant in found)
    for name in only:
        look_up("cache for this model", name, there)
    return [variant for variant in found if variant.method in only]


def rivals(full_calls: Sequence[int], steps: int) -> list[int]:
    """The numbers of steps with which solvers stand beside the caches: about as many as these computed in full."""
    counts = sorted({c for c in full_calls if c < steps})
    return counts if len(counts) <= 5 else [counts[round(i * (len(counts) - 1) / 4)] for i in range(5)]
