"""BlockCache's scale and shift: what a reused feature lacks, channel by channel and step by step.

The paper trains them against the uncached model's features (Wimbauer et al. 2024, section 3.3). For the square of that
difference the best scale and shift of a channel have a closed form, least squares over all tokens and samples, so they
are fitted in one uncached run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..training.checkpoints import load_tensors, save_tensors
from .calibration import Calibration
from .watching import Watching
from .where import branches


@dataclass(frozen=True)
class ScaleShift:
    """``tensors`` maps "site/step" to [2, channels]: the scale and the shift of that site's reused feature there."""

    tensors: dict[str, torch.Tensor]

    def of(self, site: str) -> Callable[[int, torch.Tensor], torch.Tensor]:
        """``adjust`` for a :class:`Site`: scale·feature + shift, and the feature itself where nothing was fitted."""
        fitted = {int(k.rpartition("/")[2]): v for k, v in self.tensors.items() if k.rpartition("/")[0] == site}

        def adjust(step: int, feature: torch.Tensor) -> torch.Tensor:
            pair = fitted.get(step)
            if pair is None or pair.shape[1] != feature.shape[channel_of(feature)]:
                return feature
            form = [1] * feature.dim()
            form[channel_of(feature)] = -1
            scale, shift = pair.to(feature.device, feature.dtype)
            return torch.addcmul(shift.view(form), scale.view(form), feature)

        return adjust

    def save(self, path: str | os.PathLike) -> None:
        """Writes them as safetensors."""
        save_tensors(path, self.tensors, {"what": "BlockCache's scales and shifts"})

    @classmethod
    def load(cls, path: str | os.PathLike) -> ScaleShift:
        """What ``save`` wrote. Raises ValueError, with the file's name, for anything else."""
        return cls(load_tensors(path)[0])


def channel_of(feature: torch.Tensor) -> int:
    """The dimension of the channels: the second of images and videos, the last of tokens."""
    return 1 if feature.dim() >= 4 else feature.dim() - 1


def fit_scale_shift(
    model: nn.Module, calibration: Calibration, runs: Sequence[Callable[[], Any]], delta: float = 0.5
) -> ScaleShift:
    """The scales and shifts for ``blockcache(model, calibration, delta)``.

    Args:
        model: the calibrated one.
        calibration: says which steps of which branch will be reused.
        runs: functions that each sample with the model, uncached, in as many steps as the calibration has.
        delta: as it will be for the cache.
    """
    schedule = [frozenset(due) for due in calibration.check(model).schedule(delta)]
    fitting = _Fitting(model, schedule)
    fitting.watch(runs)
    return fitting.result()


class _Fitting(Watching):
    """Sums up what a reused feature would lack."""

    def __init__(self, model: nn.Module, schedule: list[frozenset[int]]):
        super().__init__("fit_scale_shift", model, branches(model))
        self._schedule = schedule
        self._sums: dict[tuple[int, int], torch.Tensor] = {}

    def seen(self, step: int, index: int, kept: torch.Tensor | None, now: torch.Tensor) -> bool:
        """Whether ``now`` is to be kept; otherwise the sums of how it differs from what is ``kept`` grow."""
        if kept is None or step in self._schedule[index]:
            return True
        channel = channel_of(now)
        f, y = (t.double().movedim(channel, 0).flatten(1) for t in (kept, now))
        count = torch.full((len(f),), float(f.shape[1]), dtype=torch.float64)
        sums = torch.stack([count, f.sum(1).cpu(), y.sum(1).cpu(), (f * f).sum(1).cpu(), (f * y).sum(1).cpu()])
        key = index, step
        self._sums[key] = self._sums[key] + sums if key in self._sums else sums
        return False

    def result(self) -> ScaleShift:
        """The least squares."""
        found = {}
        for (index, step), (count, f, y, ff, fy) in self._sums.items():
            mean, target = f / count, y / count
            variance = ff / count - mean**2
            still = variance <= 1e-8 * (ff / count)  # a channel that is constant has no slope
            scale = torch.where(still, 1.0, (fy / count - mean * target) / variance.clamp_min(1e-30))
            found[f"{self.where[index].name}/{step}"] = torch.stack([scale, target - scale * mean]).float()
        return ScaleShift(found)
