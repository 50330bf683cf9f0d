"""Broken samples: skipped, counted and named, with what replaces them decided by the data alone."""

from __future__ import annotations

import itertools
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Generic, TypeVar

from .decoding import BrokenSample

T = TypeVar("T")

_JUDGED_FROM = 16  # fewer samples say nothing about the rest of a large data set
_UNREAD, _GOOD, _BROKEN = 0, 1, 2


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "pyaccel-decode")


if hasattr(os, "register_at_fork"):  # a forked process has the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


class Reader(Generic[T]):
    """Reads samples by ``read(index)`` in a few threads; the next good sample stands for one that is broken.

    "Next" is by index, from the last on to the first, so that a sample's replacement depends on the files alone, and
    not on what was read before. ``name(index)`` is what a sample is called in :attr:`broken` and in the warning.
    """

    def __init__(self, length: int, read: Callable[[int], T], name: Callable[[int], str]):
        self._read, self._name = read, name
        self._state = bytearray(length)
        self._lock = threading.Lock()
        self.broken: dict[str, str] = {}
        """The reason of each sample that was found broken, by its name."""

    def take(self, indices: Sequence[int]) -> list[T]:
        """The samples of ``indices``; warns once of each broken one.

        Raises ValueError when more than half of all that was read so far is broken.
        """
        outcomes = list(_pool().map(self._try, indices))
        for index, outcome in zip(indices, outcomes, strict=True):
            self._note(index, outcome)
        self._refuse_if_most_are_broken()
        return [
            self._next_good(index) if isinstance(outcome, BrokenSample) else outcome
            for index, outcome in zip(indices, outcomes, strict=True)
        ]

    def _try(self, index: int) -> T | BrokenSample:
        if self._state[index] == _BROKEN:
            return BrokenSample()
        try:
            return self._read(index)
        except BrokenSample as reason:
            return reason

    def _next_good(self, index: int) -> T:
        # When all are broken, one of the refusals in the loop ends it.
        for other in itertools.chain(range(index + 1, len(self._state)), range(index)):
            outcome = self._try(other)
            self._note(other, outcome)
            if not isinstance(outcome, BrokenSample):
                return outcome
            self._refuse_if_most_are_broken()
        raise AssertionError("all samples are broken and none was refused")

    def _note(self, index: int, outcome: T | BrokenSample) -> None:
        broken = isinstance(outcome, BrokenSample)
        with self._lock:
            news = broken and self._state[index] != _BROKEN
            self._state[index] = _BROKEN if broken else _GOOD
            if news:
                self.broken[self._name(index)] = str(outcome)
            count = len(self.broken)
        if news:
            name, reason = self._name(index), str(outcome)
            warnings.warn(
                f"{name} is broken ({reason}); the next good sample replaces it; {count} of {len(self._state)} so far",
                stacklevel=4,
            )

    def _refuse_if_most_are_broken(self) -> None:
        length, broken = len(self._state), len(self.broken)
        read = length - self._state.count(_UNREAD)
        if broken > read / 2 and read >= min(length, _JUDGED_FROM):
            name, reason = next(iter(self.broken.items()))
            raise ValueError(
                f"{broken} of the {read} samples that were read are broken, {name} for one ({reason}): "
                "this is not the data that was meant, or it has to be copied anew"
            )
