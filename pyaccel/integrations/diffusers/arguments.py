"""The arguments of a scheduler's step, sorted: tensors that are combined, and what decides their coefficients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ...solvers.tracing import Argument

_PLAIN = {bool, int, float, str, type(None)}
_GENERATOR = ("generator", None)
_Tensor = torch.Tensor


class Form:
    """One way to write a call of ``step``: how many arguments are positional and the names of the others."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self.known = "sample" in names and "model_output" in names and len(set(names)) == len(names)
        if self.known:
            self.sample, self.output = names.index("sample"), names.index("model_output")
            self.generator = names.index("generator") if "generator" in names else None
            self.others = [i for i in range(len(names)) if i not in (self.sample, self.output)]

    def arguments(self, key: tuple) -> list[Argument]:
        """What a key says, for the probe."""
        found = dict(zip(self.others, key[1:], strict=True))
        found |= {self.output: ("tensor", 0), self.sample: ("tensor", 1)}
        return [Argument(self.names[i], *found[i]) for i in sorted(found)]


class Bound(NamedTuple):
    """A call: ``key`` decides the coefficients; ``tensors`` are combined."""

    key: tuple
    tensors: list[torch.Tensor]
    values: tuple


class Binder:
    """Sorts the arguments of one class' ``step``."""

    def __init__(self, parameters: tuple[str, ...]):
        self._parameters = parameters
        self._forms: dict[tuple, Form] = {}

    def form(self, args: tuple, kwargs: dict[str, Any]) -> Form:
        """The form of a call."""
        key = (len(args), *kwargs)
        form = self._forms.get(key)
        if form is None:
            positional = self._parameters[: len(args)] if len(args) <= len(self._parameters) else ("?",) * len(args)
            form = self._forms[key] = Form((*positional, *kwargs))
        return form


class Times(NamedTuple):
    """Where the entries of a scheduler's timesteps lie in memory."""

    first: int
    end: int
    size: int

    @staticmethod
    def of(timesteps: torch.Tensor) -> Times:
        """The place of ``timesteps``."""
        first, size = timesteps.data_ptr(), timesteps.element_size()
        return Times(first, first + timesteps.numel() * size, size)


def bind(form: Form, values: tuple, times: Times) -> Bound | None:
    """The call sorted; None where an argument is of no kind that a table serves.

    An entry of the timesteps is known by its place in memory, so nothing is read from a device.
    """
    if not form.known:
        return None
    sample, output = values[form.sample], values[form.output]
    if type(sample) is not _Tensor or type(output) is not _Tensor:
        return None
    shape, key, tensors = sample.shape, [form], [output, sample]
    if output.shape != shape or len(shape) < 2:
        return None
    for i in form.others:
        value = values[i]
        kind = type(value)
        if kind is _Tensor:
            if value.dim() == 0:
                place = value.data_ptr()
                if times.first <= place < times.end:
                    key.append(("time", (place - times.first) // times.size))
                else:
                    key.append(("scalar", (value.dtype, value.item())))
            elif value.shape == shape:
                key.append(("tensor", len(tensors)))
                tensors.append(value)
            else:
                return None
        elif i == form.generator:
            if value is not None and not isinstance(value, (torch.Generator, list, tuple)):
                return None
            key.append(_GENERATOR)
        elif kind in _PLAIN:
            key.append(("plain", (kind, value)))
        else:
            return None
    return Bound(tuple(key), tensors, values)
