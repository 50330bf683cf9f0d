"""Which state belongs to a call: that of the same run and of the same pass of guidance.

Within one step a model may be called several times: with the condition, without it, perturbed. Nobody announces which
is which, so each pass is recognised by its conditioning, and a pass that was never seen gets a state of its own:

* candidates are the sessions of the run with a sample of the same shape, dtype and device that were not used yet in
  this step, and whose conditioning is the same: by identity of memory, and where that differs, by content;
* of several, the one with the most identical arguments, then the most recently used, then in the order of calls;
* an argument whose value is new, compared with every session, in two steps one after the other (the residuals of a
  ControlNet, a second time) says nothing about the pass and is left out from then on.

A mistake is made on the safe side: a new session computes in full.
"""

from __future__ import annotations

import math
from typing import Any

from .calls import Call, equal, identical
from .features import History
from .moment import Moment, When
from .ring import Ring

MOST_PASSES = 16


class Session:
    """What is kept for one run and one pass of guidance."""

    __slots__ = (
        "_decisions", "_moments", "branch", "computed", "conditioning", "forced", "group", "histories", "order",
        "position", "predicted", "rings", "serial", "signature", "step", "steps", "t", "taps", "used", "weights",
    )  # fmt: skip

    def __init__(self, signature: tuple, branch: str | None = None):
        self.signature, self.branch = signature, branch
        self.histories: dict[tuple[int, int], History] = {}
        self.conditioning: dict[str, Any] = {}
        self.step, self.steps, self.t = -1, None, math.nan
        self.position = 0.0  # of the step, in the coordinate in which features are predicted
        self.order = 0
        self.serial = 0  # counts model calls
        self.group: Any = None
        self._moments: dict[int, Moment] = {}  # by the rule's id
        self.rings: dict[Any, Ring] = {}  # by device, where features are offloaded
        self.begin()

    def begin(self, forced: bool = False) -> None:
        """A model call begins; ``forced``: in full, whatever the rules say."""
        self.serial += 1
        self.forced = forced
        self.used: dict[int, int] = {}  # how often each site was called in this model call
        self.computed: list[int] = []  # the sites that were computed, and those that were predicted
        self.predicted: list[int] = []
        self.taps: dict[int, Any] = {}  # inputs of modules that probes look at
        self.weights: dict[tuple, list[float]] = {}
        self._decisions: dict[int, bool | None] = {}
        for ring in self.rings.values():
            ring.begin()
        for moment in self._moments.values():
            moment.probe = None

    def forget(self) -> None:
        """Forgets every feature."""
        self.histories.clear()
        for ring in self.rings.values():
            ring.clear()

    def moment(self, when: When) -> Moment:
        """The rule's view of this pass."""
        moment = self._moments.get(id(when))
        if moment is None:
            moment = self._moments[id(when)] = Moment(self.group)
        return moment

    def asked(self, when: When) -> bool:
        """Whether the rule has been asked in this model call."""
        return id(when) in self._decisions

    def full(self, when: When) -> bool | None:
        """Whether the rule's sites compute in this model call, None for "compute, but remember nothing"; asked once."""
        key = id(when)
        if key not in self._decisions:
            moment = self.moment(when)
            moment.step, moment.steps, moment.t = self.step, self.steps, self.t
            full = True if self.forced or moment.last < 0 else when(moment)
            moment.decided(full)
            self._decisions[key] = full
        return self._decisions[key]


class RunState:
    """The sessions of one run."""

    def __init__(self):
        self.sessions: list[Session] = []
        self.step = -1
        self._calls = 0
        self._strikes: dict[str, tuple[int, int]] = {}  # path: how many steps in a row it was new, and the last of them
        self._varying: set[str] = set()

    def session(self, call: Call, step: int, branch: str | None = None) -> Session:
        """The session of ``call``, with its step set."""
        if step < self.step:  # the same run from the start again
            self.__init__()
        if step != self.step:
            self.step, self._calls = step, 0
        self._calls += 1
        session = self._announced(call, branch) if branch is not None else self._recognised(call)
        session.step, session.order = step, self._calls
        return session

    def forget(self, session: Session) -> None:
        """Drops a session whose call failed."""
        if session in self.sessions:
            self.sessions.remove(session)

    def _new(self, call: Call, branch: str | None = None) -> Session:
        if len(self.sessions) >= MOST_PASSES:  # these are not passes of guidance: keep memory bounded
            self.sessions.clear()
        session = Session(call.signature, branch)
        self.sessions.append(session)
        return session

    def _announced(self, call: Call, branch: str) -> Session:
        for session in self.sessions:
            if session.branch == branch:
                if session.signature == call.signature:
                    return session
                self.sessions.remove(session)
                break
        return self._new(call, branch)

    def _recognised(self, call: Call) -> Session:
        known = [s for s in self.sessions if s.branch is None and s.signature == call.signature]
        conditioning = call.conditioning
        compared = [self._differences(session, conditioning) for session in known]
        session = self._fitting(known, compared)
        if session is None and known:
            new = set.intersection(*(different for _, different in compared))
            if self._strike(new):
                session = self._fitting(known, compared)
        if session is None:
            session = self._new(call)
        elif self._strikes:
            index = known.index(session)
            for path in [p for p in self._strikes if p not in compared[index][1]]:
                del self._strikes[path]
        session.conditioning = {p: v for p, v in conditioning.items() if p not in self._varying}
        return session

    def _differences(self, session: Session, conditioning: dict[str, Any]) -> tuple[int, set[str]]:
        """How many arguments are identical with the session's last ones, and the paths of those that differ."""
        mine = session.conditioning
        count, different = 0, set()
        for path, value in conditioning.items():
            if path in self._varying:
                continue
            if path not in mine:
                different.add(path)
            elif identical(value, mine[path]):
                count += 1
            elif not equal(value, mine[path]):
                different.add(path)
        different.update(path for path in mine if path not in conditioning and path not in self._varying)
        return count, different

    def _fitting(self, known: list[Session], compared: list[tuple[int, set[str]]]) -> Session | None:
        best, best_score = None, None
        fitting = []
        for session, (count, different) in zip(known, compared, strict=True):
            if different - self._varying:
                continue
            fitting.append(session)
            score = (count, session.step, -session.order)
            if session.step < self.step and (best is None or score > best_score):
                best, best_score = session, score
        if best is not None and self._varying:  # twins that differed only in what varies are of no use any more
            for session in fitting:
                if session.step < best.step:
                    self.sessions.remove(session)
        return best

    def _strike(self, paths: set[str]) -> bool:
        """Notes that ``paths`` are new to every session; whether one of them was so for two steps in a row."""
        found = False
        for path in paths:
            count, step = self._strikes.get(path, (0, -1))
            if step != self.step:
                self._strikes[path] = (count + 1, self.step)
                if count + 1 >= 2:
                    self._varying.add(path)
                    found = True
        return found
