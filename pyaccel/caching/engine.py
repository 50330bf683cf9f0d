"""The engine of feature caches: attaches where, when and how to a model, and restores it exactly.

State belongs to one sampling run and one guidance branch. Run and step come from the StepContext that the executor of
a Plan announces; without one, calls are counted, for each thread and shape on their own, and a new run is recognised
by its time going up (when that can be read without waiting for a device) or by ``steps``.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import nn

from .. import ops
from ..denoiser import current_context
from ..models.layers import GatedBranch
from .how import How
from .when import When


@dataclass
class History:
    """The last full features of one branch, newest first, with their steps; ``depth`` differences can be formed."""

    features: list[torch.Tensor] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    depth: int = 0

    def push(self, step: int, feature: torch.Tensor, how: How) -> None:
        """Remembers ``feature``, by reference: nobody writes to what a module has returned."""
        if self.steps and self.steps[0] == step:  # computed anew, as gradient checkpointing does
            self.features[0] = feature
            return
        self.depth = min(how.order, self.depth + 1) if self.steps and step >= how.first else 0
        self.features = [feature, *self.features][: how.order + 1]
        self.steps = [step, *self.steps][: how.order + 1]

    def predict(self, step: int, how: How) -> torch.Tensor:
        """The feature at ``step``, from the raw ones."""
        count = self.depth + 1
        if count == 1:
            return self.features[0]
        weights = how.weights(self.steps[:count], step)
        return ops.linear_combination(self.features[:count], [weights])[0]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(f.numel() * f.element_size() for f in self.features)


@dataclass
class Session:
    """What is kept for one run and guidance branch."""

    shape: tuple[int, ...]
    histories: dict[int, History] = field(default_factory=dict)
    step: int = -1
    time: float | None = None
    full: bool = True


@dataclass(frozen=True)
class Summary:
    """What a cache has done: model calls, how many of them computed in full, and the most memory that it held."""

    method: str
    calls: int
    full_calls: int
    branches: int
    peak_bytes: int

    def __str__(self) -> str:
        share = f", {self.full_calls / self.calls:.0%} of them" if self.calls else ""
        return (
            f"{self.method}: {self.calls} model calls, {self.full_calls} in full{share}; {self.branches} branches; "
            f"at most {self.peak_bytes / 2**20:.1f} MiB of features held"
        )


class Cache:
    """A feature cache on a model: a context manager. Leaving the block restores the model exactly.

    ``with caching.taylorseer(model) as cache:`` and afterwards ``print(cache.summary())``.
    """

    def __init__(
        self, method: str, model: nn.Module, where: list[GatedBranch], when: When, how: How, steps: int | None
    ):
        self.method, self.model, self.where, self.when, self.how, self.steps = method, model, where, when, how, steps
        self._by_run: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self._counted = threading.local()
        self._active: ContextVar[Session | None] = ContextVar("pyaccel_cache_session", default=None)
        self._lock = threading.Lock()
        self._patched: list[tuple[nn.Module, object]] = []
        self._calls = self._full_calls = self._peak_bytes = 0

    # -- attaching ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Cache:
        for module in (self.model, *self.where):
            if getattr(module.__dict__.get("forward"), "pyaccel_cache", None) is not None:
                raise ValueError(f"this {type(module).__name__} already has a cache; leave its with-block first")
        self._patch(self.model, self._model_forward)
        for index, branch in enumerate(self.where):
            self._patch(branch, lambda original, index=index, branch=branch: self._branch_forward(index, branch))
        return self

    def __exit__(self, *_) -> None:
        for module, previous in reversed(self._patched):
            if previous is None:
                del module.forward
            else:
                module.forward = previous
        self._patched.clear()
        self.reset()

    def _patch(self, module: nn.Module, make) -> None:
        self._patched.append((module, module.__dict__.get("forward")))
        replacement = make(module.forward)
        replacement.pyaccel_cache = self
        module.forward = replacement

    def reset(self) -> None:
        """Forgets the state of every run."""
        self._by_run.clear()
        self._counted = threading.local()

    # -- one model call -----------------------------------------------------------------------------------------------

    def _model_forward(self, original):
        def forward(x: torch.Tensor, *args, **kwargs):
            session = self._session(x, args[0] if args else kwargs.get("t"))
            session.full = self.when(session.step) or len(session.histories) < len(self.where)
            token = self._active.set(session)
            try:
                result = original(x, *args, **kwargs)
            except BaseException:
                session.histories.clear()  # half a step's features fit nothing
                raise
            finally:
                self._active.reset(token)
            self._count(session)
            return result

        return forward

    def _branch_forward(self, index: int, branch: GatedBranch):
        def forward(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
            session = self._active.get()
            if session is None:  # the block was called by itself, not through the model
                return torch.addcmul(x, gate, branch.compute(x, shift, scale))
            history = session.histories.get(index)
            if not session.full and history is not None:
                return torch.addcmul(x, gate, history.predict(session.step, self.how))
            feature = branch.compute(x, shift, scale)
            session.histories.setdefault(index, History()).push(session.step, feature, self.how)
            return torch.addcmul(x, gate, feature)

        return forward

    def _session(self, x: torch.Tensor, t) -> Session:
        """The session of this call, with its step set; a new one for a new run or another shape."""
        context = current_context()
        shape = (*x.shape, x.dtype, x.device)
        if context is not None:
            with self._lock:
                sessions = self._by_run.setdefault(context.run, {})
            session = sessions.get(context.branch)
            if session is None or session.shape != shape or context.step < session.step:
                session = sessions[context.branch] = Session(shape)
            session.step = context.step
            return session
        sessions = self._counted.__dict__
        time = float(t.reshape(-1)[0]) if isinstance(t, torch.Tensor) and t.numel() and t.is_cpu else None
        session = sessions.get(str(shape))
        risen = session is not None and None not in (time, session.time) and time > session.time
        if session is None or risen or (self.steps is not None and session.step + 1 >= self.steps):
            sessions.clear()  # another shape is another run
            session = sessions[str(shape)] = Session(shape)
        session.step += 1
        session.time = time
        return session

    def _count(self, session: Session) -> None:
        with self._lock:
            self._calls += 1
            self._full_calls += session.full
            if session.full:
                self._peak_bytes = max(self._peak_bytes, sum(h.bytes for h in session.histories.values()))

    def summary(self) -> Summary:
        """Counts since the cache was made; bytes are those of one run and guidance branch."""
        return Summary(self.method, self._calls, self._full_calls, len(self.where), self._peak_bytes)


def attach(
    method: str,
    model: nn.Module,
    *,
    where: Iterable[GatedBranch],
    when: When,
    how: How,
    steps: int | None = None,
) -> Cache:
    """A :class:`Cache` of these three parts on ``model``, to be entered with ``with``.

    ``steps`` is the number of model calls of a run, for use without a StepContext on a device whose times are costly
    to read.
    """
    return Cache(method, model, list(where), when, how, steps)
