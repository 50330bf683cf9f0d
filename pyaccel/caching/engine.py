"""The engine of feature caches: attaches where, when and how to a model, and restores it exactly.

State belongs to one sampling run and one pass of guidance (:mod:`pyaccel.caching.runs`). Run and step come from the
StepContext that is announced (the executor of a Plan does), else from whom the cache follows (a fused scheduler), else
from counting the calls (:mod:`pyaccel.caching.position`). The pass is recognised by its conditioning
(:mod:`pyaccel.caching.sessions`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from .. import ops
from ..denoiser import Run, StepContext, announce
from .features import History, flatten, stub
from .held import Held, expected_of, held_by
from .how import How
from .moment import When
from .offloading import Offloaded, ahead_of, ring_for
from .patching import Patch, patched_by
from .probing import Leave, Probing
from .runs import Position, Runs
from .sessions import RunState, Session
from .slots import Slot, places
from .statistics import Statistics, Summary, weights_of
from .storage import storage_of
from .where import Site


class Rejected(Exception):
    """A prediction was compared with the truth and found too far from it: the call is done in full."""


class Cache:
    """A feature cache on a model: a context manager, or :meth:`attach` and :meth:`detach`.

    ``with caching.taylorseer(model) as cache:`` and afterwards ``print(cache.summary())``. Leaving the block restores
    the model exactly. While the cache is attached, a copy or a pickle of the model is an uncached model.
    """

    def __init__(
        self,
        method: str,
        model: nn.Module,
        where: list[Site],
        when: When,
        how: How,
        *,
        steps: int | None = None,
        memory: str | None = None,
        offload: bool | int = False,
        coordinate: str | Callable[[float], float] = "step",
        group: Any = None,
    ):
        self.method, self.model, self.where, self.when, self.how = method, model, where, when, how
        self.steps, self.memory, self.coordinate, self.group = steps, memory, coordinate, group
        storage_of(memory)  # an error for one that there is not
        self.offload, self._ahead = offload, ahead_of(offload)
        self._runs = Runs(model, steps, coordinate, group)
        self._active: ContextVar[Session | None] = ContextVar("pyaccel_cache_session", default=None)
        self._lock = self._runs.lock
        self._slots: list[Slot] = []
        self._root: Patch | None = None
        self._copies: set[int] = set()  # sites whose features the model writes into
        self._whole: Callable | None = None  # the site that is the model itself
        self._estimating = False
        self._statistics = Statistics(where, weights_of(model, where))

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
            if patched_by(module, Cache, method) is not None:
                raise ValueError(f"this {type(module).__name__} already has a cache; detach it or leave its with-block")
        where = places(self.model)
        patch = functools.partial(self._patch, where)
        try:
            call = torch._dynamo.disable(self._model_call, recursive=False)
            self._root = Patch(self, self.model, "forward", call)
            for index, site in enumerate(self.where):
                if site.module is self.model:
                    self._whole = self._site_call(index)
                else:
                    patch(site.module, site.method, site.name, self._site_call(index))
                for number, module in enumerate(site.feeds):
                    patch(module, "forward", f"{site.name} (feed)", self._feed_call(index, number))
            Probing(self._active, self.where, self.when).attach(patch)
        except BaseException:
            self.detach()
            raise
        return self

    def _patch(self, where: dict, module: nn.Module, method: str, name: str, call: Callable) -> None:
        call = torch._dynamo.disable(call, recursive=False)
        self._slots.append(Slot(self, module, method, where, name, call))

    def detach(self) -> None:
        """Takes the cache off and frees its state. Raises ValueError when it is not attached."""
        if not self.attached:
            raise ValueError(f"{self.method} is not attached to a model; attach() it or use it in a with-block first")
        for slot in reversed(self._slots):
            slot.patch.remove()
        self._slots.clear()
        self._root.remove()
        self._root = self._whole = None
        self.reset()

    @property
    def settings(self) -> dict[str, Any]:
        """The options of :func:`attach` beside where, when and how."""
        return {name: getattr(self, name) for name in ("steps", "memory", "offload", "coordinate", "group")}

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
        self._runs.position = position

    def reset(self) -> None:
        """Forgets the state of every run."""
        self._runs.forget()

    def summary(self) -> Summary:
        """Counts since the cache was made; bytes are those of one run and guidance pass."""
        return self._statistics.summary(self.method)

    def estimate(self, *args, **kwargs) -> Held:
        """The bytes that the features of one run and pass will take, for model calls with these arguments.

        Those on the device; the ``host`` of the result are those in pinned host memory, with ``offload``. The model is
        not computed, only its shapes are; a tensor on the "meta" device will do for a sample. Nothing is
        attached afterwards that was not before.
        """
        from torch._subclasses.fake_tensor import FakeTensorMode

        before = self.attached
        if not before:
            self.attach()
        self._estimating = True
        try:
            device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
            given = [*args, *kwargs.values()]
            with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), announce(StepContext(Run(), 0, 1, 1.0)):
                fake = [torch.empty_like(x, device=device) if isinstance(x, torch.Tensor) else x for x in given]
                session = self._begin(tuple(fake), {})[1]
                token = self._active.set(session)
                try:
                    run = self._entered(self._root.original)
                    run(*fake[: len(args)], **dict(zip(kwargs, fake[len(args) :], strict=True)))
                finally:
                    self._active.reset(token)
                return expected_of(session, self.how.order + 1)
        finally:
            self._estimating = False
            self.reset()
            if not before:
                self.detach()

    # -- one model call -----------------------------------------------------------------------------------------------

    def _model_call(self, original, args: tuple, kwargs: dict):
        state, session = self._begin(args, kwargs)
        run = self._entered(original)
        token, again = self._active.set(session), False
        try:
            try:
                result = run(*args, **kwargs)
                again = bool(session.predicted) and not self._sound(result)
            except Rejected:
                again = True
            if again:  # nothing that was remembered is trusted any more
                session.forget()
                session.begin(forced=True)
                result = run(*args, **kwargs)
        except BaseException:
            state.forget(session)  # half a step's features fit nothing
            raise
        finally:
            self._active.reset(token)
        if not session.used:
            state.forget(session)
            raise RuntimeError(
                f"{self.method}: none of the {len(self.where)} sites ran in a call of {type(self.model).__name__}; "
                "its modules were replaced, or where= names modules that it does not call. Detach the cache and "
                "make a new one"
            )
        self._count(session, again)
        return result

    def _entered(self, original: Callable) -> Callable:
        """The model's own forward, as a site where it is one."""
        return original if self._whole is None else lambda *a, **k: self._whole(original, a, k)

    @torch.compiler.disable
    def _sound(self, result: Any) -> bool:
        """Whether a predicted result is finite; asked on a CPU alone, since elsewhere it would wait for the device."""
        leaves = [x for x in flatten(result)[0] if isinstance(x, torch.Tensor) and x.is_floating_point()]
        if not leaves or not leaves[0].is_cpu or type(leaves[0]) is not torch.Tensor or torch.is_grad_enabled():
            return True
        return all(math.isfinite(float(x.sum(dtype=torch.promote_types(x.dtype, torch.float32)))) for x in leaves)

    @torch.compiler.disable
    def _begin(self, args: tuple, kwargs: dict) -> tuple[RunState, Session]:
        """The state of a call that is about to run."""
        if not all(slot.in_place() for slot in self._slots):
            with self._lock:
                for slot in self._slots:
                    if not slot.in_place():
                        slot.follow()
            self.reset()  # what was computed without the adapter does not fit any more
        state, session = self._runs.session(args, kwargs)
        session.begin()
        return state, session

    def _history(self, session: Session, index: int, occurrence: int) -> History:
        history = session.histories.get((index, occurrence))
        if history is None:
            history = History(storage_of(self.memory), self.where[index].residual)
            session.histories[(index, occurrence)] = history
        return history

    def _offload(self, session: Session, history: History, feature: Any) -> None:
        """The first feature of a site is about to be remembered: in host memory, where that is another one."""
        ring = ring_for(session, flatten(feature)[0], self._ahead, self._estimating)
        if ring is not None:
            history.storage = Offloaded(self.memory, ring)

    def _decide(self, session: Session, index: int, history: History, args: tuple, kwargs: dict) -> bool | None:
        """Whether the site is predicted in this call; None where a probe inside of it will tell."""
        if not history.entered(session, args, kwargs):
            return history.decided
        site = self.where[index]
        when, probe = site.when or self.when, site.probe
        usable = history.usable
        if probe is not None and not session.asked(when):
            if probe.module is None:
                session.moment(when).probe = next((t for t in (*args, *kwargs.values()) if _is_feature(t)), None)
            elif probe.inside and session.moment(when).last >= 0 and not session.forced:
                history.decided, history.passing = None if usable else False, False
                return history.decided
        full = session.full(when)
        history.decided, history.passing = usable and full is False, full is None
        return history.decided

    def _site_call(self, index: int):
        active, how, copies, ahead = self._active.get, self.how, self._copies, self._ahead
        site = self.where[index]
        rule = site.when or self.when
        told = getattr(rule, "computed", None)

        def call(original, args: tuple, kwargs: dict):
            session = active()
            if session is None:  # the block was called by itself, not through the model
                self._revive()
                return original(*args, **kwargs)
            used = session.used
            occurrence = used[index] = used.get(index, -1) + 1
            history = self._history(session, index, occurrence)
            decided = self._decide(session, index, history, args, kwargs)
            if decided and not site.verify:
                return predicted(session, history)
            try:
                feature = original(*args, **kwargs)
            except Leave as leave:
                if decided is not None or leave.index != index:
                    raise
                history.decided = True
                return predicted(session, history)
            session.computed.append(index)
            if decided:
                self._verify(session, site, history, feature)
            if decided or history.passing:
                return feature
            if history.storage.written:  # the model writes into what this site returns: from now on copies are kept
                copies.add(index)
            if ahead and not history.positions and not isinstance(history.storage, Offloaded):
                self._offload(session, history, feature)
            history.push(session.step, session.position, feature, how, copies=index in copies)
            if told is not None and not self._estimating:
                told(session.moment(rule), next(x for x in flatten(feature)[0] if _is_feature(x)))
            return feature

        def predicted(session: Session, history: History):
            session.predicted.append(index)
            adjust = None if site.adjust is None else functools.partial(site.adjust, session.step)
            if how.gauged is None:
                weights = history.weights(session.position, how, session.weights)
            else:
                weights = how.gauged(session.moment(rule), history.depth + 1)
            if site.gated and adjust is None:
                return functools.partial(history.storage.gated, weights)
            return history.predict(weights, adjust)

        return call

    def _verify(self, session: Session, site: Site, history: History, feature: Any) -> None:
        rule = site.when or self.when
        expected = history.predict(history.weights(session.position, self.how, session.weights))
        pairs = [(a, b) for a, b in zip(flatten(expected)[0], flatten(feature)[0], strict=True) if _is_feature(b)]
        error = max(float(ops.relative_l1(a, b)) for a, b in pairs)
        if not rule.verified(session.moment(rule), error):
            raise Rejected

    def _feed_call(self, index: int, number: int):
        active, shaped, verified = self._active.get, self.where[index].shaped, self.where[index].verify

        def call(original, args: tuple, kwargs: dict):
            session = active()
            if session is None:
                return original(*args, **kwargs)
            occurrence = session.used.get(index, -1) + 1  # the call of the site that comes after its feeds
            history = self._history(session, index, occurrence)
            decided = self._decide(session, index, history, args, kwargs)
            if decided and number in history.stubs and not verified:
                return history.stubs[number]
            try:
                result = original(*args, **kwargs)
            except Leave as leave:
                if decided is not None or leave.index != index or number not in history.stubs:
                    raise
                history.decided = True
                return history.stubs[number]
            if decided is None:  # the probe inside has not told: it was in another module, or did not run
                history.decided = False
            if not history.passing:
                history.stubs[number] = stub(result, shaped)
            return result

        return call

    def _revive(self) -> None:
        """Patches the model again if somebody has taken our forward away, as removing a hook of accelerate does."""
        root = self._root
        if root is not None and not root.in_place():
            with self._lock:
                root.remove()
                self._root = Patch(self, self.model, "forward", root.call)

    @torch.compiler.disable
    def _count(self, session: Session, again: bool) -> None:
        with self._lock:
            statistics = self._statistics
            statistics.recomputed += again
            statistics.count(session.step, session.computed, session.predicted, not session.predicted)
            if session.computed:
                held = held_by(session)
                statistics.peak_bytes = max(statistics.peak_bytes, held)
                statistics.host_bytes = max(statistics.host_bytes, held.host)


def _is_feature(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() >= 2
