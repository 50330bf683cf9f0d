"""Whose state a model call belongs to: which run, which step of it, which pass of guidance."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from ..denoiser import StepContext, current_context
from .calls import Arguments
from .position import Counter, Direction
from .sessions import RunState, Session

Position = Callable[[], StepContext | None]
_FARTHEST = 20.0


class Runs:
    """The states of all runs of one cache: announced, known from whom it follows, or counted by the calls' times."""

    def __init__(
        self,
        model: nn.Module,
        steps: int | None,
        coordinate: str | Callable[[float], float] = "step",
        group: Any = None,
    ):
        if coordinate not in ("step", "time") and not callable(coordinate):
            raise ValueError(f"coordinate must be 'step', 'time' or a function of time, got {coordinate!r}")
        self._coordinate, self._group = coordinate, group
        self.position: Position | None = None
        self.by_run: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self.lock = threading.RLock()
        self._steps = steps
        self._local = threading.local()
        self._direction = Direction()
        self._arguments = Arguments(model)

    def forget(self) -> None:
        """Forgets the state of every run."""
        with self.lock:
            self.by_run.clear()
            self._local = threading.local()

    def session(self, args: tuple, kwargs: dict) -> tuple[RunState, Session]:
        """The state of this call's run and the session of its pass, with its step, time and position set."""
        state, session = self._located(args, kwargs)
        session.group, session.position = self._group, self._position_of(session)
        return state, session

    def _located(self, args: tuple, kwargs: dict) -> tuple[RunState, Session]:
        call = self._arguments.read(args, kwargs)
        context, thread = current_context(), None
        if context is None and self.position is not None:
            context, thread = self.position(), threading.get_ident()
        if context is not None:
            state = self._state(context.run, thread)
            session = state.session(call, context.step, context.branch)
            session.steps, session.t = context.steps, context.t
            return state, session
        local = self._local.__dict__
        counter = local.get("counter")
        if counter is None:
            counter = local["counter"] = Counter(self._direction, self._steps)
        if counter.advance(call.time) or "state" not in local:
            self._drop_last_run(local)
            local["state"] = RunState()
        state = local["state"]
        session = state.session(call, counter.step)
        session.steps, session.t = self._steps, counter.time
        return state, session

    def _position_of(self, session: Session) -> float:
        """The position of a call, in the coordinate in which features are predicted."""
        if self._coordinate == "step" or session.t is None or math.isnan(session.t):
            return float(session.step)
        value = session.t if self._coordinate == "time" else float(self._coordinate(session.t))
        return min(max(value, -_FARTHEST), _FARTHEST)  # log-SNR is infinite at both ends

    def _state(self, run: Any, thread: int | None) -> RunState:
        """The state of an announced run; that of the run before in this thread is freed."""
        local = self._local.__dict__
        last = local.get("run")
        if last is None or last() is not run:
            self._drop_last_run(local)
            local.pop("state", None)
            local.pop("counter", None)
            local["run"] = weakref.ref(run)
        with self.lock:
            states = self.by_run.setdefault(run, {})
            if thread not in states:
                states[thread] = RunState()
            return states[thread]

    def _drop_last_run(self, local: dict) -> None:
        last = local.pop("run", None)
        if last is not None and last() is not None:
            with self.lock:
                self.by_run.pop(last(), None)
