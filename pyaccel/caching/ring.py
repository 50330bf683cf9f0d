"""The few device buffers through which offloaded features pass, and who gets one when.

A site's features are fetched before it is reached: when a site is used, the next ones in the order of the model call
before are asked for, so many ``ahead``. There is a buffer for each of these and one for the site itself. At the end of
a call the next ones are those at its beginning.
"""

from __future__ import annotations

from typing import Any

import torch


class Buffer:
    """Device memory, and the two events that order its uses and its copies."""

    __slots__ = ("copied", "moving", "owner", "room", "used", "views")

    def __init__(self, transfers: Any, size: int):
        with torch.inference_mode(False):  # it may be written outside of it later
            self.room: torch.Tensor = transfers.room(size)
        self.used, self.copied = transfers.event(), transfers.event()
        self.owner: Any = None  # whose features are in it, or on their way
        self.moving = False  # a copy was asked for since the last use
        self.views: dict[Any, list] = {}  # tensors in it, as its owners see it
        transfers.computed(self.used)  # the memory may have been somebody else's until now


class Ring:
    """The buffers of one run and pass. Those who take part (offloaded.py) have ``buffer``, ``size``, ``host`` and
    ``fetched()``, the bytes of ``host`` that are worth fetching."""

    def __init__(self, transfers: Any, ahead: int):
        self.transfers, self.ahead = transfers, ahead
        self._buffers: list[Buffer] = []  # the last used one is the last
        self._order: list[Any] = []  # who was used in the last model call, and in this one
        self._now: list[Any] = []
        self._place: dict[int, int] = {}  # by id, in the last call

    def begin(self) -> None:
        """A model call begins."""
        if self._now:
            self._order, self._now = self._now, []
            self._place = {id(owner): i for i, owner in enumerate(self._order)}

    def clear(self) -> None:
        """Nobody's features are worth anything any more; the buffers are kept."""
        for buffer in self._buffers:
            self._give_up(buffer)
        self._order, self._now, self._place = [], [], {}

    @property
    def bytes(self) -> int:
        """Device memory held."""
        return sum(buffer.room.nbytes for buffer in self._buffers)

    def expected(self, sizes: list[int]) -> int:
        """Device memory for sites of these sizes, at most."""
        return min(self.ahead + 1, len(sizes)) * max(sizes, default=0)

    def use(self, owner: Any, filled: bool) -> Buffer:
        """The buffer of ``owner``, to be used by what is computed from now on until :meth:`done`.

        ``filled``: with its features in it. Asks for what the next ones need too: those of this model call as
        ``owner`` did, those of the next call in any case.
        """
        following = self._following(owner)
        buffer = owner.buffer
        if buffer is None:
            buffer = self._take(owner, [other for other, _ in following])
            if filled:
                self._fetch(buffer)
        self._buffers.remove(buffer)
        self._buffers.append(buffer)
        keep = [owner]
        for other, next_call in following:
            keep.append(other)
            if other.buffer is None and other.fetched() and (filled or next_call):
                self._fetch(self._take(other, keep))
        if buffer.moving:
            self.transfers.wait(buffer.copied)
            buffer.moving = False
        return buffer

    def done(self, owner: Any) -> None:
        """What was computed so far is all that uses the buffer of ``owner``."""
        self.transfers.computed(owner.buffer.used)
        self._now.append(owner)

    def send(self, owner: Any, begin: int, end: int) -> None:
        """Bytes of the buffer of ``owner`` go to host memory; after :meth:`done`."""
        buffer = owner.buffer
        self.transfers.copy(owner.host[begin:end], buffer.room[begin:end], buffer.used, buffer.copied)
        buffer.moving = True

    def leave(self, owner: Any) -> None:
        """What is in the buffer of ``owner`` is not all of its features: it is to be fetched before the next use."""
        if owner.buffer is not None:
            self._give_up(owner.buffer)

    def _following(self, owner: Any) -> list[tuple[Any, bool]]:
        """Who is used after ``owner``, and whether only in the next model call, if it goes on as in the last one."""
        place, count = self._place.get(id(owner)), len(self._order)
        if place is None:
            return []
        places = range(place + 1, place + min(self.ahead, count - 1) + 1)
        found = {id(self._order[i % count]): (self._order[i % count], i >= count) for i in reversed(places)}
        found.pop(id(owner), None)
        return list(found.values())[::-1]

    def _fetch(self, buffer: Buffer) -> None:
        size = buffer.owner.fetched()
        self.transfers.copy(buffer.room[:size], buffer.owner.host[:size], buffer.used, buffer.copied)
        buffer.moving = True

    def _take(self, owner: Any, keep: list) -> Buffer:
        """A buffer for ``owner``: a new one as long as there may be more, or the one that was used longest ago and is
        of none to ``keep``, of whom there are at most ``ahead`` others."""
        if len(self._buffers) <= self.ahead:
            buffer = Buffer(self.transfers, owner.size)
            self._buffers.append(buffer)
        else:
            buffer = next(b for b in self._buffers if b.owner is None or b.owner not in keep)
            self._give_up(buffer)
            if buffer.room.nbytes < owner.size:
                self._buffers[self._buffers.index(buffer)] = buffer = Buffer(self.transfers, owner.size)
        buffer.owner, owner.buffer = owner, buffer
        return buffer

    def _give_up(self, buffer: Buffer) -> None:
        if buffer.owner is not None:
            buffer.owner.buffer = buffer.owner = None
