"""What a rule sees when it decides: the step, what came before it in this pass, and how much a probe has changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .. import ops

When = Callable[["Moment"], "bool | None"]
"""A rule: whether the sites that it decides for compute in full (True) or are predicted (False); None is for computing
them without remembering anything. It is asked once in each model call, when the first of them is reached, so it may
look at what has been computed before. The first call of a pass is always in full, and no rule is asked.

A rule may have two methods more: ``computed(moment, feature)`` is told what a site of it has computed in full, and
``verified(moment, error)`` says whether a verified prediction is accepted."""


class Moment:
    """One model call of a run and pass of guidance, as the rule of some sites sees it.

    Attributes:
        step: number of the model call within its run, from 0.
        steps: how many the run has; None where nobody knows.
        t: the time of the call, or NaN.
        last: the step that was last computed in full; -1 before the first.
        hits: how many calls have been predicted in this run.
        memory: a dict of the rule's own, kept for the run and pass.
        probe: what the probe computed in this call (a tensor), if the sites have one.
    """

    __slots__ = ("_computed", "_older", "_previous", "group", "hits", "last", "memory", "probe", "step", "steps", "t")

    def __init__(self, group: Any = None):
        self.step, self.steps, self.t, self.last, self.hits = -1, None, math.nan, -1, 0
        self.memory: dict[str, Any] = {}
        self.probe: torch.Tensor | None = None
        self._previous: _Kept | None = None
        self._computed: _Kept | None = None
        self._older: _Kept | None = None
        self.group = group

    @property
    def since(self) -> int:
        """Steps since the last full one; 1 right behind it."""
        return self.step - self.last

    @property
    def new_steps(self) -> range:
        """The steps that have come up since the last full one: a pass that was left out for some steps may have missed
        the one at which it was due."""
        return range(min(self.last + 1, self.step), self.step + 1)

    def change(self, since: str = "computed") -> float:
        """Σ|now − before| / Σ|before| of the probe: since the last full call ("computed") or the last call at all
        ("previous"); infinite where there is nothing to compare with. One number is read from the device; with a
        process group its largest is taken, so that all ranks decide alike.

        Raises ValueError where the sites have no probe.
        """
        if self.probe is None:
            raise ValueError("this rule asks how much a probe has changed, and its sites have no probe")
        before = self.before(since)
        if before is None or before.shape != self.probe.shape:
            change = math.inf
        else:
            change = float(ops.relative_l1(self.probe, before))
        return agreed(change, self.group, self.probe.device)

    def before(self, since: str = "computed") -> torch.Tensor | None:
        """The probe's tensor of the last full call ("computed"), the one before that ("older") or the last call at all
        ("previous"); None where there is none."""
        kept = {"computed": self._computed, "older": self._older, "previous": self._previous}[since]
        return None if kept is None else kept.tensor()

    def decided(self, full: bool | None) -> None:
        """The rule has decided; the engine says so."""
        if self.probe is not None:
            self.keep(full)
        if full:
            self.last = self.step
        elif full is not None:
            self.hits += 1

    def keep(self, full: bool | None) -> None:
        """Keeps the probe's tensor for later calls."""
        self._previous = _Kept(self.probe)
        if full:
            self._older, self._computed = self._computed, self._previous


class _Kept:
    """A tensor kept by reference, as long as nobody writes into it."""

    __slots__ = ("_tensor", "_version")

    def __init__(self, tensor: torch.Tensor):
        tensor = tensor.detach()
        self._tensor = tensor.clone() if tensor.is_inference() else tensor
        self._version = None if tensor.is_inference() else tensor._version

    def tensor(self) -> torch.Tensor | None:
        fresh = self._version is None or self._tensor._version == self._version
        return self._tensor if fresh else None


def agreed(change: float, group: Any, device: torch.device) -> float:
    """The largest ``change`` over the ranks of ``group``; NaN counts as infinite, so that it leads to a full step."""
    change = math.inf if math.isnan(change) else change
    if group is None:
        return change
    value = torch.tensor(change, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX, group=group)
    return float(value)
