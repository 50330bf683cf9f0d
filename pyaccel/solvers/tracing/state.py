"""A scheduler's state as data: its attributes, with the tensors of the sample's kind taken out and numbered.

What a step does depends on the attributes that its object has (indices, sigmas, lists of earlier outputs). Here they
are split in two: the *registers*, tensors like the sample, on which a linear step depends linearly; and everything
else, the *host* state, which decides the coefficients. Two states with the same host part have the same table.
"""

from __future__ import annotations

import collections
import copy
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

CONTAINERS = (list, tuple, dict, collections.deque)


class Slot(NamedTuple):
    """Stands in the host state for register ``index``."""

    index: int


class Given(NamedTuple):
    """Stands in a state for the object that the step was handed as its argument ``name``."""

    name: str


class SizeFrom(NamedTuple):
    """Stands in a state for the sizes of the sample from dimension ``first`` on."""

    first: int


# A dict of a class of its own is a frozen configuration: nothing writes to it.
_IMMUTABLE = (
    bool, int, float, complex, str, bytes, type(None), dict, types.FunctionType, type, torch.dtype, torch.device,
    torch.Size, np.generic, Slot, Given, SizeFrom,
)  # fmt: skip
_ATOMS = {bool, int, float, str, bytes, type(None), Slot, Given, SizeFrom}


def mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """``value`` with ``leaf`` applied to all that is not a plain list, tuple, dict or deque; these are made anew."""
    kind = type(value)
    if kind is list:
        return [mapped(v, leaf) for v in value]
    if kind is tuple:
        return tuple(mapped(v, leaf) for v in value)
    if kind is dict:
        return {k: mapped(v, leaf) for k, v in value.items()}
    if kind is collections.deque:
        return collections.deque((mapped(v, leaf) for v in value), value.maxlen)
    return leaf(value)


def leaves(value: Any) -> list:
    """All that ``value`` holds, containers opened."""
    found: list = []
    mapped(value, found.append)
    return found


def filled(template: Any, tensors, given: dict[str, Any] | None = None) -> Any:
    """The template with its slots filled, and the arguments that a step was handed in their places."""
    kind = type(template)
    if kind is Slot:
        return tensors[template.index]
    if kind is Given:
        return given[template.name]
    if kind is SizeFrom:
        return given["sample"].shape[template.first :]
    if kind is list:
        return [
            tensors[v.index] if type(v) is Slot else None if v is None else filled(v, tensors, given) for v in template
        ]
    if kind in CONTAINERS:
        return mapped(template, lambda v: filled(v, tensors, given))
    return template


def private(value: Any) -> Any:
    """A leaf that a probed step may change without anybody noticing: tensors on the CPU, objects copied."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    return value if _immutable(value) else copy.deepcopy(value)


def _immutable(value: Any) -> bool:
    return isinstance(value, _IMMUTABLE)


class Snapshot:
    """The attributes of an object, registers taken out.

    Registers are the real floating-point tensors with two dimensions or more; constants have fewer.
    """

    def __init__(self, attributes: dict[str, Any]):
        self.registers: list[torch.Tensor] = []
        numbers: dict[int, int] = {}

        def leaf(value):
            if isinstance(value, torch.Tensor) and value.dim() >= 2 and value.is_floating_point():
                if id(value) not in numbers:
                    numbers[id(value)] = len(self.registers)
                    self.registers.append(value)
                return Slot(numbers[id(value)])
            return value

        self._attributes = {name: mapped(value, leaf) for name, value in attributes.items()}
        if "noise_sampler" in attributes:  # whatever it is, it is asked for noise
            self._attributes["noise_sampler"] = None

    def host(self) -> dict[str, Any]:
        """The attributes as they may be probed: nobody else refers to what they hold."""
        return {name: mapped(value, private) for name, value in self._attributes.items()}

    def fingerprint(self) -> tuple:
        """Equal for states of which the same steps have the same tables."""
        return tuple([(name, _print(value)) for name, value in self._attributes.items()])


_prints: dict[int, tuple[weakref.ref, int, Any]] = {}


def _remembered(value: Any, version: int, make: Callable[[], Any]) -> Any:
    """``make()``, made once for each object and version: constants of a thousand entries are the same in every run."""
    known = _prints.get(id(value))
    if known is not None and known[0]() is value and known[1] == version:
        return known[2]
    key, result = id(value), make()
    _prints[key] = weakref.ref(value, lambda _: _prints.pop(key, None)), version, result
    return result


def _print(value: Any):
    kind = type(value)
    if kind in _ATOMS:
        return kind, value
    if isinstance(value, torch.Tensor):
        version = -1 if value.is_inference() else value._version  # these know no versions
        return _tensor_print(value) if version < 0 else _remembered(value, version, lambda: _tensor_print(value))
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if kind in (list, tuple, collections.deque):
        return kind, tuple(map(_print, value))
    if isinstance(value, dict):
        if kind is not dict:  # a frozen configuration
            return _remembered(value, 0, lambda: (kind, tuple((k, _print(v)) for k, v in value.items())))
        return kind, tuple((k, _print(v)) for k, v in value.items())
    if hasattr(value, "__dict__") and not isinstance(value, (type, types.FunctionType)):
        return kind, tuple((k, _print(v)) for k, v in vars(value).items())
    try:
        hash(value)
    except TypeError:
        return "object", id(value)
    return kind, value


def _tensor_print(value: torch.Tensor) -> tuple:
    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:
        value = value.view(torch.int16)
    return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
