"""Transfer layers without a GPU: copies that are done as late, as early or as irregularly as events allow."""

from __future__ import annotations

import random

import torch

from pyaccel.caching import offloading
from pyaccel.caching.ring import Ring


class Event:
    """``stamp``: when it was recorded behind a computation; ``copy``: the number of the copy that it stands behind."""

    stamp = copy = -1


class Copies:
    """A layer whose copies are done at ``pace``: "late", when somebody waits for them; "early", at once; "random".

    What a copy will write is spoilt until it has arrived. ``log`` has what was asked for, in order. A copy into or out
    of memory that is in use, or that begins before its last use is over, is an error.
    """

    def __init__(self, pace: str = "late"):
        self.pace, self.log, self.queue = pace, [], []
        self.rooms: list[torch.Tensor] = []
        self.hosts: list[torch.Tensor] = []
        self.clock = self.count = 0
        self.used: dict[int, int] = {}  # by address of the memory: when its last use began, 0 where none is going on
        self.random = random.Random(0)

    def host(self, size):
        self.hosts.append(torch.full((size,), 255, dtype=torch.uint8))
        return self.hosts[-1]

    def room(self, size):
        self.rooms.append(torch.full((size,), 255, dtype=torch.uint8))
        return self.rooms[-1]

    def event(self):
        return Event()

    def copy(self, to, source, after, done):
        here = to if self._is_room(to) else source
        begun = self.used.get(here.untyped_storage().data_ptr(), 0)
        assert begun >= 0, "a copy of memory that is in use"
        assert after.stamp >= begun, "a copy that does not wait for the last use of its memory"

        def here_too(t):
            return t.untyped_storage().data_ptr() == here.untyped_storage().data_ptr()

        self.log.append(("fetch" if here is to else "send", here.untyped_storage().data_ptr()))
        if here is to:
            self._work(max((n for n, *ends in self.queue if any(map(here_too, ends))), default=-1))
            to.fill_(255)
        done.copy, self.count = self.count, self.count + 1
        self.queue.append((done.copy, to, source))
        if self.pace == "early":
            self._work(done.copy)
        elif self.pace == "random":
            self._work(self.random.randint(0, done.copy))

    def computed(self, event):
        self.clock += 1
        event.stamp = self.clock
        if self.pace == "random" and self.count:
            self._work(self.random.randint(0, self.count - 1))

    def wait(self, event):
        self.log.append(("wait", event.copy))
        self._work(event.copy)

    def _work(self, until: int) -> None:
        while self.queue and self.queue[0][0] <= until:
            _, to, source = self.queue.pop(0)
            to.copy_(source)

    def _is_room(self, t) -> bool:
        return any(t.untyped_storage().data_ptr() == room.data_ptr() for room in self.rooms)


class Layers:
    """What is put in place of the real layer: ``made`` are the layers of each ring."""

    def __init__(self, monkeypatch, pace: str = "late"):
        self.made: list[Copies] = []
        self.pace = pace
        monkeypatch.setattr(offloading, "transfers_for", self._make)
        use, done = Ring.use, Ring.done

        def watched_use(ring, owner, filled):
            buffer = use(ring, owner, filled)
            layer = ring.transfers
            layer.log.append(("use", id(owner)))
            layer.used[buffer.room.data_ptr()] = -1
            return buffer

        def watched_done(ring, owner):
            done(ring, owner)
            ring.transfers.used[owner.buffer.room.data_ptr()] = ring.transfers.clock

        monkeypatch.setattr(Ring, "use", watched_use)
        monkeypatch.setattr(Ring, "done", watched_done)

    def _make(self, device):
        self.made.append(Copies(self.pace))
        return self.made[-1]
