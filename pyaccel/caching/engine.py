"""The engine of feature caches: attaches where, when and how to a model, and restores it exactly.

State belongs to one sampling run and one pass of guidance. Run and step come from the StepContext that is announced
(the executor of a Plan does), else from whom the cache follows (a fused scheduler), else from counting the calls
(:mod:`pyaccel.caching.position`). The pass is recognised by its conditioning (:mod:`pyaccel.caching.sessions`).
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter as Counts
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..denoiser import StepContext, current_context
from .calls import Arguments
from .features import History, stub
from .how import How
from .patching import Patch, patched_by
from .position import Counter, Direction
from .sessions import RunState, Session
from .when import When
from .where import Site

Position = Callable[[], StepContext | None]


@dataclass(frozen=True)
class Summary:
    """What a cache has done: model calls, how many of them computed in full, the most memory that it held for one run
    and pass, and how many sites of which kind it has."""

    method: str
    calls: int
    full_calls: int
    branches: int
    peak_bytes: int
    kinds: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        share = f", {self.full_calls / self.calls:.0%} of them" if self.calls else ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        kinds = f" ({kinds})" if kinds else ""
        return (
            f"{self.method}: {self.calls} model calls, {self.full_calls} in full{share}; {self.branches} branches"
            f"{kinds}; at most {self.peak_bytes / 2**20:.1f} MiB of features held"
        )


class Cache:
    """A feature cache on a model: a context manager, or :meth:`attach` and :meth:`detach`.

    ``with caching.taylorseer(model) as cache:`` and afterwards ``print(cache.summary())``. Leaving the block restores
    the model exactly. While the cache is attached, a copy or a pickle of the model is an uncached model.
    """

    def __init__(self, method: str, model: nn.Module, where: list[Site], when: When, how: How, steps: int | None):
        self.method, self.model, self.where, self.when, self.how, self.steps = method, model, where, when, how, steps
        self._position: Position | None = None
        self._by_run: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self._local = threading.local()
        self._direction = Direction()
        self._active: ContextVar[Session | None] = ContextVar("pyaccel_cache_session", default=None)
        self._lock = threading.RLock()
        self._arguments = Arguments(model)
        self._slots: list[_Slot] = []
        self._root: Patch | None = None
        self._copies: set[int] = set()  # sites whose features the model writes into
        self._calls = self._full_calls = self._peak_bytes = 0

    # -- attaching ----------------------------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether the model is cached at this moment."""
        return self._root is not None

    def attach(self) -> Cache:
        """Puts the cache on the model and returns it. Raises ValueError when the model has one already."""
        if self.attached:
            raise ValueError(f"{self.method} is already attached; detach() it first")
        if not self.where:
            raise ValueError(f"{self.method}: where= is empty; give at least one caching.Site")
        for module, method in ((self.model, "forward"), *((s.module, s.method) for s in self.where)):
            if patched_by(module, method) is not None:
                raise ValueError(f"this {type(module).__name__} already has a cache; detach it or leave its with-block")
        places = _places(self.model)
        try:
            call = torch._dynamo.disable(self._model_call, recursive=False)
            self._root = Patch(self, self.model, "forward", call)
            for index, site in enumerate(self.where):
                self._slots.append(_Slot(self, site.module, site.method, places, site.name, self._site_call(index)))
                for number, module in enumerate(site.feeds):
                    call = self._feed_call(index, number)
                    self._slots.append(_Slot(self, module, "forward", places, f"{site.name} (feed)", call))
        except BaseException:
            self.detach()
            raise
        return self

    def detach(self) -> None:
        """Takes the cache off and frees its state. Raises ValueError when it is not attached."""
        if not self.attached:
            raise ValueError(f"{self.method} is not attached to a model; attach() it or use it in a with-block first")
        for slot in reversed(self._slots):
            slot.patch.remove()
        self._slots.clear()
        self._root.remove()
        self._root = None
        self.reset()

    def __enter__(self) -> Cache:
        return self.attach()

    def __exit__(self, *_) -> None:
        if self.attached:  # it may have been detached inside of the block
            self.detach()

    def follow(self, position: Position | None) -> None:
        """Asks ``position()`` for the StepContext of a call that nobody announced; None where it does not know.

        ``follow(None)`` ends it.
        """
        if position is not None and not callable(position):
            raise TypeError(f"follow takes a function without arguments, got {type(position).__name__}")
        self._position = position

    def reset(self) -> None:
        """Forgets the state of every run."""
        with self._lock:
            self._by_run.clear()
            self._local = threading.local()

    def summary(self) -> Summary:
        """Counts since the cache was made; bytes are those of one run and guidance pass."""
        kinds = dict(Counts(site.kind for site in self.where))
        return Summary(self.method, self._calls, self._full_calls, len(self.where), self._peak_bytes, kinds)

    # -- one model call -----------------------------------------------------------------------------------------------

    def _model_call(self, original, args: tuple, kwargs: dict):
        state, session = self._begin(args, kwargs)
        full = session.full
        token = self._active.set(session)
        try:
            result = original(*args, **kwargs)
        except BaseException:
            state.forget(session)  # half a step's features fit nothing
            raise
        finally:
            self._active.reset(token)
        if full:
            session.last_full = session.step
            if not session.used:
                state.forget(session)
                raise RuntimeError(
                    f"{self.method}: none of the {len(self.where)} sites ran in a call of {type(self.model).__name__}; "
                    "its modules were replaced, or where= names modules that it does not call. Detach the cache and "
                    "make a new one"
                )
        self._count(session, full)
        return result

    @torch.compiler.disable
    def _begin(self, args: tuple, kwargs: dict) -> tuple[RunState, Session]:
        """The state of a call that is about to run, with the decision whether it is a full one."""
        if not all(slot.in_place() for slot in self._slots):
            with self._lock:
                for slot in self._slots:
                    if not slot.in_place():
                        slot.follow()
            self.reset()  # what was computed without the adapter does not fit any more
        state, session = self._session(args, kwargs)
        session.weights.clear()
        session.used.clear()
        step, when = session.step, self.when
        # A pass that was left out for some steps may have missed the step at which it was due.
        due = any(when(s) for s in range(min(session.last_full + 1, step), step + 1))
        session.full = due or not session.histories
        return state, session

    def _site_call(self, index: int):
        active, how, copies = self._active.get, self.how, self._copies

        def call(original, args: tuple, kwargs: dict):
            session = active()
            if session is None:  # the block was called by itself, not through the model
                self._revive()
                return original(*args, **kwargs)
            used = session.used
            occurrence = used[index] = used.get(index, -1) + 1
            history = session.histories.get((index, occurrence))
            if history is None:
                history = session.histories[(index, occurrence)] = History()
            if history.decide(session, args, kwargs):
                return history.predict(history.weights(session.step, how, session.weights))
            feature = original(*args, **kwargs)
            if history.written:  # the model writes into what this site returns: from now on copies are kept
                copies.add(index)
            history.push(session.step, feature, how, copies=index in copies)
            return feature

        return torch._dynamo.disable(call, recursive=False)

    def _feed_call(self, index: int, number: int):
        active = self._active.get

        def call(original, args: tuple, kwargs: dict):
            session = active()
            if session is None:
                return original(*args, **kwargs)
            key = (index, session.used.get(index, -1) + 1)  # the call of the site that comes after its feeds
            history = session.histories.get(key)
            if history is None:
                history = session.histories[key] = History()
            if history.decide(session, args, kwargs) and number in history.stubs:
                return history.stubs[number]
            result = original(*args, **kwargs)
            history.stubs[number] = stub(result)
            return result

        return torch._dynamo.disable(call, recursive=False)

    def _revive(self) -> None:
        """Patches the model again if somebody has taken our forward away, as removing a hook of accelerate does."""
        root = self._root
        if root is not None and not root.in_place():
            with self._lock:
                root.remove()
                self._root = Patch(self, self.model, "forward", root.call)

    # -- whose state --------------------------------------------------------------------------------------------------

    def _session(self, args: tuple, kwargs: dict) -> tuple[RunState, Session]:
        """The state of this call's run and the session of its pass, with its step set."""
        call = self._arguments.read(args, kwargs)
        context, thread = current_context(), None
        if context is None and self._position is not None:
            context, thread = self._position(), threading.get_ident()
        if context is not None:
            state = self._state(context.run, thread)
            return state, state.session(call, context.step, context.branch)
        local = self._local.__dict__
        counter = local.get("counter")
        if counter is None:
            counter = local["counter"] = Counter(self._direction, self.steps)
        if counter.advance(call.time) or "state" not in local:
            self._drop_last_run(local)
            local["state"] = RunState()
        state = local["state"]
        return state, state.session(call, counter.step)

    def _state(self, run: Any, thread: int | None) -> RunState:
        """The state of an announced run; that of the run before in this thread is freed."""
        local = self._local.__dict__
        last = local.get("run")
        if last is None or last() is not run:
            self._drop_last_run(local)
            local.pop("state", None)
            local.pop("counter", None)
            local["run"] = weakref.ref(run)
        with self._lock:
            states = self._by_run.setdefault(run, {})
            if thread not in states:
                states[thread] = RunState()
            return states[thread]

    def _drop_last_run(self, local: dict) -> None:
        last = local.pop("run", None)
        if last is not None and last() is not None:
            with self._lock:
                self._by_run.pop(last(), None)

    @torch.compiler.disable
    def _count(self, session: Session, full: bool) -> None:
        with self._lock:
            self._calls += 1
            self._full_calls += full
            if full:
                self._peak_bytes = max(self._peak_bytes, sum(h.bytes for h in session.histories.values()))


# ---- where a patch sits ----------------------------------------------------------------------------------------------


class _Slot:
    """A patched module and its place in its parent, where another module may turn up (an adapter around it)."""

    def __init__(self, cache: Cache, module: nn.Module, method: str, places: dict, name: str, call: Callable):
        self.parent, self.key = places.get(id(module), (None, ""))
        self.cache, self.method, self.name, self.call = cache, method, name, call
        self.patch = Patch(cache, module, method, call)

    def in_place(self) -> bool:
        """Whether the module is where it was and a call of it comes to us."""
        patch = self.patch
        if self.parent is not None and self.parent._modules.get(self.key) is not patch.module:
            return False
        return patch.module.__dict__.get(self.method) is patch.outermost or patch.in_place()

    def follow(self) -> None:
        """Patches what is in the place now."""
        module = self.patch.module if self.parent is None else self.parent._modules.get(self.key)
        if module is None or not callable(getattr(module, self.method, None)):
            raise RuntimeError(
                f"{self.cache.method}: the module of the site {self.name!r} is gone from the model, or has no "
                f"{self.method!r} any more. Detach the cache and make a new one"
            )
        self.patch.remove()
        self.patch = Patch(self.cache, module, self.method, self.call)


def _places(model: nn.Module) -> dict[int, tuple[nn.Module, str]]:
    """For each module inside of ``model`` its parent and its name there."""
    return {id(child): (parent, key) for parent in model.modules() for key, child in parent.named_children()}


def attach(
    method: str,
    model: nn.Module,
    *,
    where: Iterable[Site],
    when: When,
    how: How,
    steps: int | None = None,
) -> Cache:
    """A :class:`Cache` of these three parts on ``model``, to be entered with ``with``.

    Args:
        method: what it is called in the summary and in errors.
        model: one call of it is one model call; its ``forward`` is replaced while the cache is attached.
        where: the sites, as :func:`branches` finds them or as you describe them.
        when: which steps are computed in full.
        how: how a feature is predicted.
        steps: the number of steps of a run, for use without a StepContext on a model whose times say nothing.

    Raises TypeError when ``where`` holds anything but :class:`Site`.
    """
    where = list(where)
    wrong = [site for site in where if not isinstance(site, Site)]
    if wrong:
        raise TypeError(f"where= must be a list of caching.Site, got {type(wrong[0]).__name__}")
    return Cache(method, model, where, when, how, steps)
