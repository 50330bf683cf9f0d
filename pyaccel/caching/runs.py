"""Whose state a model call belongs to: which run, which step of it, which pass of guidance."""

from __future__ import annotations

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


class Runs:
    """The states of all runs of one cache: announced, known from whom it follows, or counted by the calls' times."""

    def __init__(self, model: nn.Module, steps: int | None):
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
        """The state of this call's run and the session of its pass, with its step set."""
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
