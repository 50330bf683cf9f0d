"""Counts runs and steps where nobody announces them, from the time that the model is told.

The same time is the same step, another time the next one, and a time that goes back towards noise begins a new run. In
which direction times run is learned: they fall for most models, and where they rise twice in a row, they rise.
"""

from __future__ import annotations

import math
from typing import Any

import torch


class Direction:
    """-1 where times fall during a run, +1 where they rise; shared by all runs of a cache."""

    def __init__(self):
        self.sign, self._against = -1, 0

    def is_forward(self, change: float) -> bool:
        """Whether a change of time leads towards data."""
        if change * self.sign > 0:
            self._against = 0
            return True
        self._against += 1
        if self._against == 2:
            self.sign, self._against = -self.sign, 0
        return False


class Counter:
    """The run and step of one thread's calls."""

    def __init__(self, direction: Direction, steps: int | None):
        self._direction, self._steps = direction, steps
        self._time: float | None = None
        self._view: tuple | None = None
        self.step = -1

    @property
    def time(self) -> float:
        """The time of the present call; NaN where it is not known."""
        return math.nan if self._time is None else self._time

    def advance(self, t: Any) -> bool:
        """Moves on to a call at time ``t``; whether it begins a new run."""
        begins = self._begins(t)
        if begins:
            self.step = 0
        return begins

    def _begins(self, t: Any) -> bool:
        view = view_of(t)
        if view is not None and self._view is not None and view[0] == self._view[0] and view[2] == self._view[2]:
            offset, before = view[1], self._view[1]
            self._view = (*view, t)
            if offset == before:
                return False
            self._time = None
            return self._next() if offset > before else True
        self._view = None if view is None else (*view, t)  # holds t, so that its memory is not another's meanwhile
        time, before = read(t), self._time
        self._time = time
        if self.step < 0:
            return True
        if time is None or before is None:
            # Nothing to compare with: a time that cannot be read counts as the next step, another tensor as a new run.
            return self._next() if time is None and before is None and view is None else True
        if time == before:
            return False
        return self._next() if self._direction.is_forward(time - before) else True

    def _next(self) -> bool:
        self.step += 1
        return self._steps is not None and self.step >= self._steps


def view_of(t: Any) -> tuple | None:
    """(storage, offset, size) of a time on a device that is one element of a longer tensor of times, or None."""
    if not isinstance(t, torch.Tensor) or t.is_cpu or t.device.type == "meta":
        return None
    return element_of(t)


def element_of(t: torch.Tensor) -> tuple | None:
    """The same for any device."""
    storage = t.untyped_storage()
    one_element = t.numel() >= 1 and (t.numel() == 1 or all(s == 0 for s in t.stride()))
    if not one_element or storage.nbytes() <= t.element_size():
        return None
    return storage.data_ptr(), t.storage_offset(), storage.nbytes()


def read(t: Any) -> float | None:
    """The time as a number: of several, which may be told for each token, their mean."""
    if isinstance(t, (int, float)):
        return float(t)
    if not isinstance(t, torch.Tensor) or t.numel() == 0 or t.device.type == "meta":
        return None
    flat = t.detach().reshape(-1)
    first = float(flat[0])
    if flat.numel() == 1 or bool((flat == flat[0]).all()):
        return first
    return float(flat.double().mean())
