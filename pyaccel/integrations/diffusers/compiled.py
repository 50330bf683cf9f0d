"""The fused step inside of ``torch.compile``: one opaque operator: no graph breaks and no step is compiled anew.

The operator takes the tensors and knows its scheduler by a number; which step it is, the scheduler itself counts. So
it runs once for each step and in their order, and is not for CUDA graphs, as its tag says to the compiler. A compiler
writes over its buffers, so what the scheduler goes on to hold is copied.
"""

from __future__ import annotations

import ast
import itertools
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from ... import ops
from ...solvers.tracing import NotLinear, Slot, StepTable, made_ready

_schedulers: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_numbers = itertools.count()


def register(scheduler) -> int:
    """The number by which the operator knows ``scheduler``."""
    number = next(_numbers)
    _schedulers[number] = scheduler
    return number


def step(scheduler, args: tuple, kwargs: dict):
    """The step of a fused scheduler, as the compiler traces it."""
    given = {**dict(zip(scheduler._pyaccel_names, args)), **kwargs}  # noqa: B905 - the compiler knows no strict=
    # A line for each argument: a tensor's is its dtype, after # where it has no dimensions.
    tensors, call = [], ""
    for name, value in given.items():
        if isinstance(value, Tensor):
            tensors.append(value)
            call += f"{name} {'#' if value.dim() == 0 else ''}{value.dtype}\n"
        elif value is None or isinstance(value, (bool, int, float)):
            call += f"{name} {value}\n"
        else:  # a generator cannot enter the graph
            return _outside_of_the_graph(scheduler, args, kwargs)
    number = scheduler._pyaccel_number
    returns = _returns(number, call)
    if returns is None:
        return _outside_of_the_graph(scheduler, args, kwargs)
    dtypes, fields = returns
    results = torch.ops.pyaccel.scheduler_step(tensors, call, number, dtypes)
    if fields is None:
        return tuple(results)
    return _class_of(number, call)(**dict(zip(fields, results)))  # noqa: B905


def scale(scheduler, sample: Tensor, timestep) -> Tensor:
    """``scale_model_input`` of a fused scheduler, as the compiler traces it."""
    if not isinstance(timestep, Tensor):
        timestep = torch.tensor(timestep)
    return torch.ops.pyaccel.scheduler_scale(sample, timestep, scheduler._pyaccel_number)


@torch.compiler.disable
def _outside_of_the_graph(scheduler, args: tuple, kwargs: dict):
    return scheduler.step(*args, **kwargs)


@torch.compiler.assume_constant_result
def _returns(number: int, call: str) -> tuple[list[int], list[str] | None] | None:
    """The codes of the dtypes of what the step returns, and the names of its fields, None for a tuple; None where the
    step is the original's."""
    try:
        table, registers = _next_table(number, call)
        dtypes = made_ready(table, _dtypes(registers, call)).result_dtypes
    except NotLinear:
        return None
    count = len(table.results) - table.next.registers
    if isinstance(table.returned, tuple):
        fields = None if len(table.returned) == count else ()
    else:
        fields = [name for name, value in table.returned.items() if type(value) is Slot]
    return None if fields == () else ([ops.DTYPES.index(d) for d in dtypes[:count]], fields)


@torch.compiler.assume_constant_result
def _class_of(number: int, call: str) -> type:
    return _next_table(number, call)[0].returned_class


def _arguments(call: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in call.splitlines())


def _dtypes(registers: list[Tensor], call: str) -> list[torch.dtype]:
    """Those of the columns: the registers, the model's output, the sample, and what else is like it."""
    arguments = _arguments(call)
    names = ["model_output", "sample", *(n for n in arguments if n not in ("model_output", "sample"))]
    handed = [arguments[name] for name in names if arguments[name].startswith("torch.")]
    return [*(r.dtype for r in registers), *(getattr(torch, dtype.removeprefix("torch.")) for dtype in handed)]


def _next_table(number: int, call: str) -> tuple[StepTable, list[Tensor]]:
    """The table of the step that the scheduler would take next, and its registers."""
    scheduler = _schedulers[number]
    track, arguments = scheduler._pyaccel, _arguments(call)
    form = type(scheduler)._pyaccel_binder.form((), dict.fromkeys(arguments))
    key, tensors = [form], 2
    for name in (form.names[i] for i in form.others):
        kind = arguments[name]
        if kind.startswith("#"):
            key.append(("time", min(track.first + track.done, len(scheduler.timesteps) - 1)))
        elif kind.startswith("torch."):
            key.append(("tensor", tensors))
            tensors += 1
        else:
            value = ast.literal_eval(kind)
            key.append(("generator", None) if name == "generator" else ("plain", (type(value), value)))
    state, registers = track.peek(scheduler)
    table = state.step(tuple(key), lambda: form.arguments(tuple(key)))
    if isinstance(table, NotLinear):
        raise NotLinear(str(table))
    return table, registers


@torch.library.custom_op("pyaccel::scheduler_step", mutates_args=(), tags=[torch.Tag.cudagraph_unsafe])
def _operator(tensors: Sequence[Tensor], call: str, number: int, dtypes: Sequence[int]) -> list[Tensor]:
    scheduler, left, given = _schedulers[number], iter(tensors), {}
    for name, kind in _arguments(call).items():
        if kind.startswith("#"):
            given[name] = next(left)
        else:
            given[name] = next(left).clone() if kind.startswith("torch.") else ast.literal_eval(kind)
    returned = scheduler.step(**given)
    results = returned if isinstance(returned, tuple) else returned.values()
    held = {id(t) for t in scheduler._pyaccel.registers}
    copied = []
    for t in results:  # no result may be held, nor returned twice
        copied.append(t.clone() if id(t) in held else t)
        held.add(id(t))
    return copied


@_operator.register_fake
def _(tensors, call, number, dtypes):
    like = next(t for t in tensors if t.dim())
    return [torch.empty_like(like, dtype=ops.DTYPES[d]) for d in dtypes]


@torch.library.custom_op("pyaccel::scheduler_scale", mutates_args=(), tags=[torch.Tag.cudagraph_unsafe])
def _scale(sample: Tensor, timestep: Tensor, number: int) -> Tensor:
    scaled = _schedulers[number].scale_model_input(sample, timestep)
    return scaled.clone() if scaled is sample else scaled


@_scale.register_fake
def _(sample, timestep, number):
    return torch.empty_like(sample)
