"""The patches of probes: they show a rule the tensor whose change it asks about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import ops
from .features import flatten, partners
from .moment import When
from .sessions import Session
from .where import Probe, Site


class Leave(BaseException):
    """Raised inside of a site whose rule has said "predict": what it computes is of no use."""

    def __init__(self, index: int):
        self.index = index


class Probing:
    """The probes of a cache's sites; ``active()`` is the session of the present model call."""

    def __init__(self, active: Any, sites: Sequence[Site], when: When):
        self._active, self._sites, self._when = active.get, sites, when

    def attach(self, patch: Callable) -> None:
        """Patches what probes look at; each only once, for the first site that has it."""
        seen: set[int] = set()
        for index, site in enumerate(self._sites):
            probe = site.probe
            if probe is None or probe.module is None or id(probe) in seen:
                continue
            seen.add(id(probe))
            name = f"{site.name} (probe)"
            if probe.since is not None and probe.since is not probe.module:
                patch(probe.since, "forward", name, self._tap(probe))
            patch(probe.module, "forward", name, self._look(index, site, probe))

    def _tap(self, probe: Probe) -> Callable:
        def call(original, args: tuple, kwargs: dict):
            session = self._active()
            if session is not None:
                session.taps[id(probe)] = _tensors(args, kwargs)
            return original(*args, **kwargs)

        return call

    def _look(self, index: int, site: Site, probe: Probe) -> Callable:
        when = site.when or self._when
        known: list[int | None] = [None]

        def call(original, args: tuple, kwargs: dict):
            session: Session | None = self._active()
            if session is None:
                return original(*args, **kwargs)
            given = _tensors(args, kwargs) if probe.since in (None, probe.module) else session.taps.get(id(probe), [])
            result = None if probe.input else original(*args, **kwargs)
            moment = session.moment(when)
            if moment.probe is None:
                moment.probe = given[0] if probe.input else _looked_at(result, given, probe, known)
                if session.asked(when):  # the first call is in full without a question
                    moment.keep(session.full(when))
                elif probe.inside and session.full(when) is False:
                    raise Leave(index)
            return original(*args, **kwargs) if probe.input else result

        return call


def _looked_at(result: Any, given: list, probe: Probe, known: list) -> torch.Tensor | None:
    """The tensor that a probe shows, of what its module has returned."""
    leaves = [x for x in flatten(result)[0] if isinstance(x, torch.Tensor) and x.is_floating_point()]
    if not leaves:
        return None
    if probe.since is None:
        return leaves[0]
    # The stream that goes in first is the one that is looked at, wherever it comes out.
    if known[0] is None or known[0] >= len(leaves) or leaves[known[0]].shape != given[0].shape:
        found = partners(leaves, given)
        known[0] = found.index(0) if 0 in found else 0
    leaf = leaves[known[0]]
    if leaf.shape != given[0].shape:
        return leaf
    return ops.linear_combination([leaf, given[0]], [[1.0, -1.0]], dtype=leaf.dtype)[0]


def _tensors(args: tuple, kwargs: dict) -> list[torch.Tensor]:
    given = [*args, *kwargs.values()]
    return [x for x in given if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() >= 2]
