"""How many bytes the features of one run and pass take, and where."""

from __future__ import annotations

from .offloading import Offloaded
from .sessions import Session


class Held(int):
    """Bytes on the device where the model computes; ``host`` are those in pinned host memory beside them."""

    host: int

    def __new__(cls, device: int, host: int = 0) -> Held:
        held = super().__new__(cls, device)
        held.host = host
        return held


def held_by(session: Session) -> Held:
    """What is held now."""
    storages = [history.storage for history in session.histories.values()]
    device = sum(s.bytes for s in storages) + sum(ring.bytes for ring in session.rings.values())
    return Held(device, sum(s.host_bytes for s in storages if isinstance(s, Offloaded)))


def expected_of(session: Session, room: int) -> Held:
    """What ``room`` features of each site like the newest will take, at most."""
    storages = [history.storage for history in session.histories.values()]
    device = sum(s.expected(room) for s in storages)
    sizes: dict[int, list[int]] = {}
    for s in storages:
        if isinstance(s, Offloaded):
            sizes.setdefault(id(s.ring), []).append(s.size)
    device += sum(ring.expected(sizes[id(ring)]) for ring in session.rings.values())
    return Held(device, sum(map(sum, sizes.values())))
