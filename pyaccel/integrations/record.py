"""What has been done to a pipeline or model: written down in one attribute of it, so copied and thrown away with it."""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .. import caching
from ..denoiser import StepContext

ATTRIBUTE = "_pyaccel_record"


class Link:
    """A weak reference to the thing that holds it; the link of a deep copy refers to the copy.

    Weak, so that a model which is taken out of a pipeline does not keep the rest of the pipeline in memory. Where only
    a part was copied, the link of the copy refers to nothing.
    """

    def __init__(self, thing: Any = None):
        self._reference = None if thing is None else weakref.ref(thing)

    def __call__(self) -> Any:
        return None if self._reference is None else self._reference()

    def __deepcopy__(self, memo: dict) -> Link:
        thing = self()
        return Link(None if thing is None else memo.get(id(thing)))

    def __reduce__(self):
        return Link, (), {"thing": self()}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["thing"])


@dataclass(frozen=True)
class Position:
    """Where the run of a pipeline stands: what its present scheduler says, if that is a fused one.

    ``names`` are the attributes in which the pipeline keeps its schedulers.
    """

    pipe: Link
    names: tuple[str, ...] = ("scheduler",)

    def __call__(self) -> StepContext | None:
        pipe = self.pipe()
        if pipe is None:
            return None
        # Where a pipeline has several schedulers, their runs follow each other.
        asked = [getattr(getattr(pipe, name, None), "pyaccel_position", None) for name in self.names]
        under_way = [context for ask in asked if ask is not None and (context := ask()) is not None]
        return under_way[0] if len(under_way) == 1 else None


@dataclass
class Record:
    """What was done, and how it was before.

    ``schedulers`` are (original, fused) by name. ``caches`` are those on the models, by name of the model, and
    ``makers`` make each of them anew: a copy of a model is an uncached one, so the record of a copied pipeline puts
    new caches on the copied models, and fuses their ``blocks`` again. A copy of a bare model has no record.
    ``refused`` says why a model has no cache or a scheduler is not fused.
    """

    owner: Link
    whole: bool  # a pipeline, not a bare model
    schedulers: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    caches: dict[str, Any] = field(default_factory=dict)
    makers: dict[str, Callable[[nn.Module], Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    blocks: dict[str, Any] = field(default_factory=dict)
    position: Position | None = None

    def attach(self) -> None:
        """Fuses the blocks and puts every cache on its model, outside of them; all or, after an error, nothing."""
        with contextlib.ExitStack() as undo:
            for blocks in self.blocks.values():
                blocks.attach()
                undo.callback(blocks.detach)
            for cache in self.caches.values():
                with inside_of_hooks(cache.model):
                    cache.attach()
                undo.callback(cache.detach)
                cache.follow(self.position)
            undo.pop_all()

    def detach(self) -> None:
        """Takes them off, but for those that somebody has taken off by hand."""
        for cache in reversed(self.caches.values()):
            if cache.attached:
                cache.follow(None)
                cache.detach()
        for blocks in reversed(self.blocks.values()):
            blocks.detach()

    def __reduce_ex__(self, protocol):
        # None for a bare model: it is not there as a whole while its attributes are being copied.
        return super().__reduce_ex__(protocol) if self.whole else (type(None), ())

    def __getstate__(self) -> dict:
        models = {name: (cache.model, cache.attached) for name, cache in self.caches.items()}
        return vars(self) | {"caches": models, "blocks": {name: (b.model, type(b)) for name, b in self.blocks.items()}}

    def __setstate__(self, state: dict) -> None:
        models = state["caches"]
        vars(self).update(state)
        self.caches = {name: self.makers[name](model) for name, (model, attached) in models.items() if attached}
        self.blocks = {name: make(model) for name, (model, make) in state["blocks"].items()}
        self.attach()


@dataclass(frozen=True)
class LikeCache:
    """Makes a cache like one that was handed over ready-made; in a deep copy, with the sites of the copied model."""

    cache: Any
    sites: tuple

    def __call__(self, model: nn.Module) -> Any:
        old = self.cache
        return caching.attach(old.method, model, where=self.sites, when=old.when, how=old.how, **old.settings)

    def __deepcopy__(self, memo: dict) -> LikeCache:
        return LikeCache(self.cache, copy.deepcopy(self.sites, memo))

    def __reduce__(self):
        raise TypeError(
            f"a pipeline with a ready-made cache ({self.cache.method}) cannot be pickled: give accelerate() its name "
            "and options instead, or restore() the pipeline first"
        )


@contextlib.contextmanager
def inside_of_hooks(model: nn.Module):
    """Within this, ``model.forward`` is what a hook of accelerate calls, and not the hook.

    What is put there stays when the hook goes. Model offload takes its hooks away at the end of each call of a
    pipeline and puts new ones there; what was around them would be lost.
    """
    attributes = vars(model)
    hooked = attributes.get("forward")
    if hooked is None or "_old_forward" not in attributes:
        yield
        return
    model.forward = model._old_forward
    try:
        yield
    finally:
        model._old_forward, model.forward = model.forward, hooked


def record_of(thing: Any) -> Record | None:
    """The record of ``thing`` itself; a shallow copy's attribute is that of the pipeline which it was copied from."""
    record = getattr(thing, "__dict__", {}).get(ATTRIBUTE)
    return record if record is not None and record.owner() is thing else None


def write(thing: Any, record: Record) -> None:
    """Keeps the record; not by ``setattr``, with which pipelines watch their configuration and modules their parts."""
    thing.__dict__[ATTRIBUTE] = record


def erase(thing: Any) -> None:
    """Forgets the record."""
    thing.__dict__.pop(ATTRIBUTE, None)
