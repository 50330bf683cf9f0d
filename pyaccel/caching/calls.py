"""One call of a model: which arguments are the sample and the time, and what else conditions it."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import nn

TIMES = ("timestep", "timesteps", "t", "time", "times", "noise_labels", "sigma", "sigmas", "c_noise", "noise_level")


class Call(NamedTuple):
    """``signature`` is that of the sample; ``conditioning`` maps the path of every other argument to its value."""

    signature: tuple
    time: Any
    conditioning: dict[str, Any]


class Arguments:
    """Reads the calls of one model, given by position or by keyword."""

    def __init__(self, model: nn.Module):
        try:
            parameters = inspect.signature(type(model).forward).parameters.values()
            self.names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
        except (TypeError, ValueError):
            self.names = []
        self.sample = self.names[0] if self.names else "0"
        named = [n for n in self.names if n in TIMES]
        self.times = named + [n for n in TIMES if n not in named]

    def read(self, args: tuple, kwargs: dict) -> Call:
        """The call with these arguments. The time is the first that is called so, or else the second positional."""
        names = self.names
        given = {names[i] if i < len(names) else str(i): value for i, value in enumerate(args)}
        given.update(kwargs)
        first = self.sample if self.sample in given else next(iter(given), None)
        sample = given.pop(first, None)
        time = next((n for n in self.times if n in given), None)
        if time is None and len(args) > 1:
            second = names[1] if len(names) > 1 else "1"
            value = given.get(second)
            if isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and value.dim() <= 1):
                time = second
        conditioning: dict[str, Any] = {}
        time_value = given.pop(time, None) if time is not None else None
        for name, value in given.items():
            _flatten(name, value, conditioning)
        return Call(_signature(sample), time_value, conditioning)


def _signature(sample: Any) -> tuple:
    if isinstance(sample, torch.Tensor):
        return (tuple(sample.shape), sample.dtype, sample.device)
    if isinstance(sample, (list, tuple)):
        return tuple(_signature(x) for x in sample)
    return (type(sample),)


def _flatten(path: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _flatten(f"{path}.{name}", inner, into)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _flatten(f"{path}.{index}", inner, into)
    elif value is not None:
        into[path] = value


def identical(a: Any, b: Any) -> bool:
    """The same memory, or the same plain value."""
    if a is b:
        return True
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    try:
        return a.data_ptr() == b.data_ptr() != 0 and a.stride() == b.stride()
    except RuntimeError:  # no memory of its own, as inside of a transform
        return False


def equal(a: Any, b: Any) -> bool:
    """The same content; this waits for the device."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device or a.device.type == "meta":
            return False
        return bool(torch.equal(a, b))
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor) or type(a) is not type(b):
        return False
    # Objects of other kinds say nothing that could be compared safely, except when they are plain values.
    return a == b if isinstance(a, (bool, int, float, str, bytes)) else True
