"""What has been done to a pipeline or model: written down in one attribute of it, so copied and thrown away with it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

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

    ``schedulers`` are (original, fused) by name, ``caches`` by the name of their model, and ``refused`` says why a
    model has no cache.
    """

    owner: Link
    schedulers: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    caches: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


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
