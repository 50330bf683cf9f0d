"""Calibration: how much each part of a model changes from step to step, measured once and kept in a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import ops
from ..files import write_atomically
from .features import flatten
from .moment import Moment
from .ranges import modulated_input, spans
from .watching import Watching
from .where import branches

VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """What changes from one step to the next, as means over guidance passes and repeated runs.

    Attributes:
        model: the class of the model.
        sites: the names of its branches.
        change: [steps][sites], Σ|C_t − C_(t−1)| / Σ|C_t| of a branch's output C (BlockCache, eq. 2); 0 in the first.
        input_change: [steps], of the first block's modulated input, relative to the step before (TeaCache).
        output_change: [steps], of the model's output, relative to the step before.
        magnitudes: [steps], mean ‖r_t‖/‖r_(t−1)‖ over the tokens, r what all blocks add (MagCache); 1 in the first.

    The last three are empty for a model without lists of transformer blocks.
    """

    model: str
    sites: tuple[str, ...]
    change: tuple[tuple[float, ...], ...]
    input_change: tuple[float, ...] = ()
    output_change: tuple[float, ...] = ()
    magnitudes: tuple[float, ...] = ()

    @property
    def steps(self) -> int:
        """The number of steps of the runs."""
        return len(self.change)

    @property
    def polynomial(self) -> tuple[float, ...]:
        """The polynomial, of fourth degree and highest power first, that fits the change of the output best to that of
        the modulated input (TeaCache, eq. 8); of lower degree where there are few steps."""
        if len(self.input_change) < 3:
            raise ValueError("this calibration has no changes of a modulated input, or fewer than three steps")
        x, y = np.array(self.input_change[1:]), np.array(self.output_change[1:])
        return tuple(float(c) for c in np.polyfit(x, y, min(4, len(x) - 2)))

    def schedule(self, delta: float) -> list[list[int]]:
        """For each site the steps at which it is computed: it is kept while its changes since then add up to at most
        ``delta`` (BlockCache, section 3.2)."""
        if not delta >= 0:
            raise ValueError(f"delta must be at least 0, got {delta!r}")
        found: list[list[int]] = []
        for site in range(len(self.sites)):
            due, added = [0], 0.0
            for step in range(1, self.steps):
                added += self.change[step][site]
                if added > delta:
                    due.append(step)
                    added = 0.0
            found.append(due)
        return found

    def check(self, model: nn.Module) -> Calibration:
        """Itself; ValueError where it is another model's."""
        names = tuple(site.name for site in branches(model))
        if type(model).__name__ != self.model or names != self.sites:
            raise ValueError(
                f"this calibration is of a {self.model} with {len(self.sites)} branches, not of this "
                f"{type(model).__name__} with {len(names)}; calibrate this model anew"
            )
        return self

    def save(self, path: str | os.PathLike) -> None:
        """Writes it as JSON."""
        text = json.dumps({"version": VERSION, **asdict(self)}, indent=1)
        write_atomically(path, lambda to: to.write_text(text))

    @classmethod
    def of(cls, given: Any, model: nn.Module) -> Calibration | None:
        """A calibration, or the one in a file, checked against ``model``; None where ``given`` is neither."""
        if isinstance(given, (str, os.PathLike)):
            given = cls.load(given)
        return given.check(model) if isinstance(given, cls) else None

    @classmethod
    def load(cls, path: str | os.PathLike) -> Calibration:
        """What ``save`` wrote. Raises ValueError, with the file's name, for anything else."""
        try:
            data = json.loads(Path(path).read_text())
            if data.pop("version") != VERSION:
                raise ValueError("another version")
            data["change"] = tuple(tuple(map(float, row)) for row in data["change"])
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
        except OSError as error:
            raise ValueError(f"no calibration in {path}: {error.strerror}; pyaccel calibrate makes one") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a calibration: {error}") from None


def calibrate(model: nn.Module, runs: Sequence[Callable[[], Any]], steps: int | None = None) -> Calibration:
    """Measures a model while ``runs`` sample with it, in full.

    Args:
        model: any that :func:`pyaccel.caching.branches` recognises.
        runs: functions that each run the model through all steps; the paper's authors take a few prompts and seeds.
        steps: of a run, where nothing announces a StepContext and the times say nothing.

    Returns means over all of them. Raises ValueError where the model was not called.
    """
    observer = _Observer(model, steps)
    observer.watch(runs)
    return observer.calibration()


class _Means:
    """Means of numbers by step."""

    def __init__(self):
        self.sums: dict[int, list[float]] = {}

    def add(self, step: int, value: float) -> None:
        total = self.sums.setdefault(step, [0.0, 0])
        if math.isfinite(value):
            total[0] += value
            total[1] += 1

    def values(self, steps: int, default: float) -> tuple[float, ...]:
        found = [self.sums.get(step, (0.0, 0)) for step in range(steps)]
        return tuple(total / count if count else default for total, count in found)


class _Observer(Watching):
    """Takes note of what changes from step to step."""

    def __init__(self, model: nn.Module, steps: int | None):
        sites = branches(model)
        self._names = tuple(site.name for site in sites)
        self._changes = [_Means() for _ in sites]
        self._inputs, self._outputs, self._magnitudes = _Means(), _Means(), _Means()
        try:
            trunk = spans(model, probe=modulated_input(model), when=self._rule)
        except ValueError:
            trunk = []
        super().__init__("calibrate", model, [*sites, *trunk], steps)

    def _rule(self, moment: Moment) -> bool:
        if moment.before("previous") is not None:
            self._inputs.add(moment.step, moment.change("previous"))
        return True

    def _model_call(self, original, args, kwargs):
        def watched(*args, **kwargs):
            result = original(*args, **kwargs)
            session = self._active.get()
            memory = session.moment(self.when).memory
            output = next((x for x in flatten(result)[0] if isinstance(x, torch.Tensor)), None)
            before, memory["output"] = memory.get("output"), output
            if before is not None and before.shape == output.shape:
                self._outputs.add(session.step, float(ops.relative_l1(output, before)))
            return result

        return super()._model_call(watched, args, kwargs)

    def seen(self, step: int, index: int, kept: torch.Tensor | None, now: torch.Tensor) -> bool:
        """How ``now`` differs from the step before."""
        if kept is None:
            return True
        if index < len(self._names):
            self._changes[index].add(step, float(ops.relative_l1(kept, now)))
        else:
            ratio = now.float().norm(dim=-1) / kept.float().norm(dim=-1)
            self._magnitudes.add(step, float(ratio[ratio.isfinite()].mean()))
        return True

    def calibration(self) -> Calibration:
        """What was seen."""
        steps = max((step + 1 for means in self._changes for step in means.sums), default=0)
        if not steps:
            raise ValueError("the model was not called, or only once in each run")
        change = zip(*(means.values(steps, 0.0) for means in self._changes), strict=True)
        rows = (self._inputs, 0.0), (self._outputs, 0.0), (self._magnitudes, 1.0)
        found = [means.values(steps, default) if means.sums else () for means, default in rows]
        if not found[0]:
            found = [(), (), ()]
        return Calibration(type(self.model).__name__, self._names, tuple(change), *found)
