"""Remembered features in pinned host memory: a storage as those of storage.py, but for where the bytes lie.

A site has one block of host memory, with a region for each remembered feature, and for a moment of each step one of the
few device buffers of its ring (ring.py), laid out the same. A feature that was computed is copied into the buffer, so
that the model may do with it what it likes, and from there to its region. For a prediction the block is in the buffer
again, and the prediction is what the storage makes of it that keeps features on the device: so the values are the same
to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .. import ops
from .ring import Ring
from .storage import Compact, narrowed, storage_of
from .transfers import transfers_for

_ALIGNED = 256  # bytes: where each tensor of a block begins


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a block."""

    begin: int
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]

    def of(self, room: torch.Tensor) -> torch.Tensor:
        size = self.dtype.itemsize * self.shape.numel()
        return room[self.begin : self.begin + size].view(self.dtype).as_strided(self.shape, self.stride)


class _Region:
    """A part of a block: the leaves of one feature. Those that are not floating point stay where they are."""

    def __init__(self, begin: int, leaves: list):
        self.begin = self.end = begin
        self.places = [self._placed(leaf) for leaf in leaves]

    def _placed(self, leaf: Any) -> Any:
        if isinstance(leaf, ops.Quantized):
            return ops.Quantized(*map(self._room_for, leaf))
        return self._room_for(leaf) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else None

    def _room_for(self, leaf: torch.Tensor) -> _Place:
        place = _Place(self.end, leaf.dtype, leaf.shape, torch.empty_like(leaf, device="meta").stride())
        self.end += -(-leaf.nbytes // _ALIGNED) * _ALIGNED
        return place

    def views(self, room: torch.Tensor) -> list:
        """Its tensors in ``room``; None for what stays."""

        def view(place):
            if isinstance(place, ops.Quantized):
                return ops.Quantized(*map(view, place))
            return None if place is None else place.of(room)

        return [view(place) for place in self.places]


class Offloaded:
    """The features of one site, newest first, in host memory; with ``memory`` as in :func:`storage_of`.

    They are constants: no gradient flows through what was offloaded.
    """

    __slots__ = (
        "_dtypes", "_inner", "_parts", "_regions", "_stay", "buffer", "host", "ring", "size",
        "written",
    )  # fmt: skip

    def __init__(self, memory: str | None, ring: Ring):
        self.ring = ring
        self._inner = storage_of(memory)  # makes predictions of what is in a buffer
        self.written = False  # nobody else has what is kept
        self._regions: list[_Region] = []
        self._parts: list[int] = []  # the regions of the features, newest first
        self._stay: dict[int, list] = {}  # by region, the leaves that are not moved
        self._dtypes: list = []  # of the leaves, None for those that are no tensors
        self.host: torch.Tensor | None = None
        self.buffer, self.size = None, 0

    # -- as the other storages ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def push(self, leaves: list, room: int, *, replace: bool, copies: bool) -> None:
        """As in :class:`Raw`; what is kept is always a copy."""
        with torch.inference_mode(False):
            leaves = [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
            self._dtypes = [getattr(leaf, "dtype", None) for leaf in leaves]
            compact = isinstance(self._inner, Compact)
            kept = [narrowed(leaf) for leaf in leaves] if compact else leaves
            if not self._regions:
                self._lay_out(kept, room)
            self._push(kept, room, replace)

    def _lay_out(self, kept: list, room: int) -> None:
        older = kept
        if isinstance(self._inner, Compact) and room > 1:
            older = [self._inner.aged(x, x) for x in kept]
        end = 0
        for i in range(room):
            self._regions.append(_Region(end, older if i else kept))
            end = self._regions[-1].end
        self.size = end
        if self.ring.transfers is not None:
            self.host = self.ring.transfers.host(end)

    def _push(self, kept: list, room: int, replace: bool) -> None:
        if self.ring.transfers is None:  # only what it will take is asked for
            self._parts = [0]
            return
        ages = self._quantizes and bool(self._parts) and not replace and room > 1
        complete = self.buffer is not None or len(self._parts) <= (1 if replace else 0)
        self.ring.use(self, filled=ages)
        changed = {}
        if self._quantizes:  # the newest has a region of its own
            if ages:
                older = self._free_region(range(1, room))
                changed[older] = list(map(self._inner.aged, self._whole(0), kept))
                self._parts = [0, older, *self._parts[1:]]
            self._parts = self._parts or [0]
            changed[0] = kept
        else:
            region = self._parts[0] if replace and self._parts else self._free_region(range(room))
            self._parts = [region, *(p for p in self._parts if p != region)]
            changed[region] = kept
        for region, values in changed.items():
            self._write(region, values)
        self.ring.done(self)
        for region in changed:
            self.ring.send(self, self._regions[region].begin, self._regions[region].end)
        if not (complete or ages):
            self.ring.leave(self)

    @property
    def _quantizes(self) -> bool:
        return isinstance(self._inner, Compact) and self._inner.dtype != torch.bfloat16

    def _free_region(self, regions: range) -> int:
        """One that no feature is in, or the oldest one's, which is forgotten."""
        for region in regions:
            if region not in self._parts:
                return region
        return self._parts.pop()

    def _write(self, region: int, values: list) -> None:
        for view, value in zip(self._seen(region), values, strict=True):
            if isinstance(value, ops.Quantized):
                view.codes.copy_(value.codes)
                view.scales.copy_(value.scales)
            elif view is not None:
                view.copy_(value)
        self._stay[region] = [
            None if view is not None else value.clone() if isinstance(value, torch.Tensor) else value
            for view, value in zip(self._seen(region), values, strict=True)
        ]

    def _seen(self, region: int) -> list:
        """The tensors of a region in the buffer."""
        key, views = self._regions[region], self.buffer.views
        if key not in views:
            with torch.inference_mode(False):
                views[key] = key.views(self.buffer.room)
        return views[key]

    def _whole(self, region: int) -> list:
        return [s if v is None else v for v, s in zip(self._seen(region), self._stay[region], strict=True)]

    def fetched(self) -> int:
        """How many bytes of the block there is anything in."""
        return max((self._regions[p].end for p in self._parts), default=0)

    def like(self, leaves: list) -> bool:
        """Whether ``leaves`` can be combined with what is kept."""
        if [getattr(leaf, "dtype", None) for leaf in leaves] != self._dtypes:
            return False
        places = self._regions[0].places
        return all(p is None or p.shape == leaf.shape for p, leaf in zip(places, leaves, strict=True))

    def clear(self) -> None:
        """Forgets everything; memory is kept for features of the same shapes only."""
        self.ring.leave(self)
        self._regions, self._parts, self._stay, self.host, self.size = [], [], {}, None, 0

    def intact(self) -> bool:
        """Nobody else has what is kept."""
        return True

    def combined(self, weights: list[float], added: list | None = None) -> list:
        """As in :class:`Raw`."""
        return self._made(len(weights), lambda kept: kept.combined(weights, added))

    def gated(self, weights: list[float], residual: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """As in :class:`Raw`."""
        return self._made(len(weights), lambda kept: kept.gated(weights, residual, gate))

    def _made(self, count: int, make: Any) -> Any:
        self.ring.use(self, filled=True)
        features = [self._whole(p) for p in self._parts[:count]]
        try:
            return make(self._inner.holding(features, self._dtypes))
        finally:
            self._inner.clear()  # holds nothing of a buffer that is another's next
            self.ring.done(self)

    @property
    def bytes(self) -> int:
        """Device memory held, beside the ring's."""
        return sum(getattr(leaf, "nbytes", 0) for leaves in self._stay.values() for leaf in leaves)

    @property
    def host_bytes(self) -> int:
        """Host memory held."""
        return 0 if self.host is None else self.host.nbytes

    def expected(self, room: int) -> int:
        """As in :class:`Raw`: nothing beside the ring's."""
        return 0


def ring_for(session: Any, leaves: list, ahead: int, estimating: bool) -> Ring | None:
    """The ring of ``session`` on the device of all ``leaves`` that move; None where there is no such device."""
    devices = {x.device for x in leaves if isinstance(x, torch.Tensor) and x.is_floating_point()}
    if len(devices) != 1:
        return None
    (device,) = devices
    if device not in session.rings:
        transfers = transfers_for(device)
        if transfers is None:
            return None
        session.rings[device] = Ring(None if estimating else transfers, ahead)
    return session.rings[device]


def ahead_of(offload: bool | int) -> int:
    """How many sites ahead ``offload=`` asks features to be fetched; 0 where nothing is offloaded."""
    if isinstance(offload, bool):
        return AHEAD if offload else 0
    if not isinstance(offload, int) or offload < 0:
        raise ValueError(f"offload must be True, False or how many sites ahead to fetch, got {offload!r}")
    return offload


AHEAD = 2
"""Sites whose features are on their way while one is used."""
