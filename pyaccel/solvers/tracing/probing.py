"""Probing: the table of one step of a scheduler, by handing it unit vectors.

A scheduler here is any object with ``step(model_output, timestep, sample, ...)``. A copy of it, in a given state, is
handed tensors with one entry for each thing that its result may depend on (registers of its state, sample, model
output, draws of noise, results of clamps), each a unit vector; every tensor that comes out, returned or kept, then
holds its own coefficients. A second step on random tensors checks that nothing else was at work.
"""

from __future__ import annotations

import copy
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ... import ops
from ..plan import Threshold
from .capture import Capture, Clamp, NoiseDraw, NotLinear
from .state import CONTAINERS, Given, SizeFrom, Slot, Snapshot, _immutable, _print, leaves, mapped

SPARE = 12  # unit vectors beside those of what the step is given: for draws and clamps, and one for constants


class Argument(NamedTuple):
    """One argument of a step: ``kind`` is ``tensor`` (the ``value``-th of those that it is handed), ``time`` (entry
    ``value`` of the scheduler's timesteps), ``scalar`` (a tensor without dimensions: its dtype and number),
    ``generator`` or ``plain`` (its type and value)."""

    name: str
    kind: str
    value: Any


@dataclass(frozen=True)
class ClampRow:
    """A clamped tensor: its coefficients over the columns before it, and the map."""

    row: tuple[float, ...]
    threshold: Threshold


@dataclass
class StepTable:
    """What a step does. Columns are the state's registers, the tensors handed in, then ``order``: draws and clamps.

    ``results`` are rows of coefficients, one for each slot of ``returned`` and ``updates`` together: ``returned`` is
    what the step hands back and ``updates`` what its attributes become. ``sample`` is the column of the sample.
    """

    registers: int
    tensors: int
    order: list[NoiseDraw | ClampRow]
    results: list[tuple[float, ...]]
    returned: Any
    returned_class: type | None
    updates: dict[str, Any]
    sample: int
    taken_from: State
    arguments: tuple[Argument, ...]
    next: State
    ready: Any = field(default=None, repr=False)  # for the dtypes of the last run, see running.py

    def __post_init__(self):
        # The updates by kind, so that a step has little to decide: single tensors, values, and what is made anew.
        self.slots = [(name, t.index) for name, t in self.updates.items() if type(t) is Slot]
        filled_in = (Slot, Given, SizeFrom, *CONTAINERS)
        self.constants = {name: t for name, t in self.updates.items() if type(t) not in filled_in}
        known = self.constants.keys() | {name for name, _ in self.slots}
        self.others = [(name, template) for name, template in self.updates.items() if name not in known]
        first = self.returned if isinstance(self.returned, tuple) else ()
        self.returns = len(first) if first == tuple(Slot(i) for i in range(len(first))) else 0  # the first results
        self.lists = [name for name, template in self.updates.items() if type(template) is list]

    @property
    def columns(self) -> int:
        """The number of columns."""
        return self.registers + self.tensors + len(self.order)


class State:
    """A state of schedulers of one class, and the tables of the steps that were taken from it."""

    def __init__(self, scheduler_class: type, host: dict[str, Any], registers: int):
        self.scheduler_class, self.host, self.registers = scheduler_class, host, registers
        self.steps: dict[Hashable, StepTable | NotLinear] = {}
        self._lock = threading.RLock()

    @property
    def timesteps(self) -> torch.Tensor:
        """The scheduler's, on the CPU."""
        held = self.host.get("timesteps")
        return self.scheduler_class.timesteps if held is None else held

    def step(self, key: Hashable, arguments: Callable[[], Sequence[Argument]]) -> StepTable | NotLinear:
        """The table of the step with ``arguments()``, known again by ``key``; or why there is none."""
        with self._lock:
            known = self.steps.get(key)
            if known is None:
                try:
                    known = _probed(self, tuple(arguments()))
                except NotLinear as refusal:
                    known = refusal
                except Exception as error:  # the scheduler's own: the real step will raise it where it is due
                    known = NotLinear(f"its step raises {type(error).__name__}: {error}")
                self.steps[key] = known
        return known


_states: OrderedDict[tuple, State] = OrderedDict()  # by class and fingerprint, the latest last
_MOST_STATES = 256
_lock = threading.Lock()


def state_of(scheduler_class: type, snapshot: Snapshot) -> State:
    """The state of a scheduler that was just looked at; the same one for all that are in the same state."""
    key = (scheduler_class, snapshot.fingerprint())
    with _lock:
        state = _states.get(key)
        if state is None:
            state = _states[key] = State(scheduler_class, snapshot.host(), len(snapshot.registers))
            if len(_states) > _MOST_STATES:
                _states.popitem(last=False)
        else:
            _states.move_to_end(key)
    return state


class Performed(NamedTuple):
    """What one step on a copy gave: all of its tensors that are like the sample, and the state with slots for them."""

    tensors: list[torch.Tensor]
    returned: Any
    returned_class: type | None
    attributes: dict[str, Any]
    capture: Capture
    handed: dict[str, Any]
    rewritten: set[int]  # ids of the registers that the step wrote into


def perform(state: State, arguments, shape, provide: Callable[[int, torch.dtype | None], torch.Tensor], clamps=True):
    """One step of a copy of the scheduler in ``state``; ``provide(column, dtype)`` gives each column's tensor."""
    first = state.registers + sum(a.kind == "tensor" for a in arguments)
    columns = iter(range(first, 10**9))
    capture = Capture(shape, lambda dtype: provide(next(columns), dtype), clamps)
    scheduler = object.__new__(state.scheduler_class)
    provided: dict[int, torch.Tensor] = {}

    def leaf(value):
        if type(value) is Slot:
            if value.index not in provided:
                provided[value.index] = provide(value.index, None)
            return provided[value.index]
        if isinstance(value, torch.Tensor) or _immutable(value):
            return value
        return copy.deepcopy(value)

    attributes = {name: mapped(template, leaf) for name, template in state.host.items()}
    before = dict(attributes)
    scheduler.__dict__.update(attributes)
    stand_ins = {}
    if "noise_sampler" in attributes:
        like = provide(_sample_column(state, arguments), None).dtype
        stand_ins["noise_sampler"] = lambda a, b: capture.draw("sampler", like, (float(a), float(b)))
    if "is_scale_input_called" in attributes:  # the reminder is for who drives the scheduler
        stand_ins["is_scale_input_called"] = True
    if clamps and hasattr(scheduler, "_threshold_sample"):
        stand_ins["_threshold_sample"] = lambda x: capture.clamp(x, _dynamic_threshold(scheduler))
    scheduler.__dict__.update(stand_ins)
    handed = {a.name: _value(a, state, lambda i: provide(state.registers + i, None)) for a in arguments}
    registers = {id(x) for x in provided.values()}
    fixed = [v for v in leaves([attributes, handed]) if isinstance(v, torch.Tensor) and id(v) not in registers]
    versions = [v._version for v in (*fixed, *provided.values())]
    with torch.no_grad(), capture:
        returned = scheduler.step(**handed)
    after = dict(scheduler.__dict__)
    for name in stand_ins:
        if after.get(name) is stand_ins[name]:
            after.pop(name)
            if name in before:
                after[name] = before[name]
    changed = [v for v, n in zip((*fixed, *provided.values()), versions, strict=True) if v._version != n]
    if any(id(v) not in registers for v in changed):
        raise NotLinear("it writes in place into its constants, or into what it was handed")
    tensors: list[torch.Tensor] = []

    def slot(value):
        if isinstance(value, torch.Tensor) and value.shape == shape:
            tensors.append(value)
            return Slot(len(tensors) - 1)
        return value

    kind, fields = None, returned
    if hasattr(returned, "__dataclass_fields__"):
        kind, fields = type(returned), {name: getattr(returned, name) for name in returned.__dataclass_fields__}
    template = mapped(fields, slot)
    following = {name: mapped(value, slot) for name, value in after.items()}
    return Performed(tensors, template, kind, following, capture, handed, {id(v) for v in changed})


def perform_scaling(state: State, index: int) -> float:
    """The factor by which ``scale_model_input`` multiplies the sample at entry ``index`` of the timesteps."""
    if not hasattr(state.scheduler_class, "scale_model_input"):
        return 1.0
    scheduler = object.__new__(state.scheduler_class)
    scheduler.__dict__.update(copy.deepcopy(state.host))
    ones = torch.ones((1, 1, 2, 1), dtype=torch.float64)
    scaled = scheduler.scale_model_input(ones, state.timesteps[index])
    return float(scaled.reshape(-1)[0])


def _sample_column(state: State, arguments) -> int:
    return state.registers + next(a.value for a in arguments if a.name == "sample")


def _value(argument: Argument, state: State, tensor: Callable[[int], torch.Tensor]) -> Any:
    match argument.kind:
        case "tensor":
            return tensor(argument.value)
        case "time":
            return state.timesteps[argument.value]
        case "scalar":
            dtype, number = argument.value
            return torch.tensor(number, dtype=dtype)
        case "generator":
            return None
    return argument.value[1]


def _dynamic_threshold(scheduler) -> Threshold:
    config = scheduler.config
    if config.sample_max_value < 1:
        raise NotLinear(f"dynamic thresholding with a largest value of {config.sample_max_value:g}, less than 1")
    return Threshold(float(config.sample_max_value), float(config.dynamic_thresholding_ratio))


def _probed(state: State, arguments: tuple[Argument, ...]) -> StepTable:
    config = state.host.get("_internal_dict")
    if isinstance(config, dict) and config.get("variance_type") in ("learned", "learned_range"):
        raise NotLinear("its variance is learned: the second half of the model's output is no term of a sum")
    tensors = sum(a.kind == "tensor" for a in arguments)
    given = state.registers + tensors
    size = given + SPARE
    shape = torch.Size((1, 1, size, 1))

    def unit(column: int, dtype=None) -> torch.Tensor:
        if column >= size - 1:
            raise NotLinear(f"it draws or clamps more than {SPARE - 1} times in one step")
        x = torch.zeros(size, dtype=torch.float64)
        x[column] = 1.0
        return x.view(shape).to(dtype or torch.float64)

    done = perform(state, arguments, shape, unit)
    order: list[NoiseDraw | ClampRow] = []
    for item in done.capture.order:
        if isinstance(item, Clamp):
            item = ClampRow(_row(item.value, given + len(order)), item.threshold)
        order.append(item)
    results = [_row(t, given + len(order)) for t in done.tensors]
    if not any(type(v) is Slot for v in leaves(done.returned)):
        raise NotLinear("its step returns no tensor like the sample")
    updates, following = _changes(state, done)
    table = StepTable(
        state.registers, tensors, order, results, done.returned, done.returned_class, updates,
        _sample_column(state, arguments), state, arguments, following,
    )  # fmt: skip
    _verify(state, arguments, table)
    return table


def _row(x: torch.Tensor, columns: int) -> tuple[float, ...]:
    values = x.detach().double().reshape(-1).tolist()
    if any(v != v or v in (float("inf"), float("-inf")) for v in values):
        raise NotLinear("its coefficients are not finite")
    if any(values[columns:]):
        raise NotLinear("it adds a constant, or depends on a draw in a way that was not seen")
    return tuple(values[:columns])


def _changes(state: State, done: Performed) -> tuple[dict[str, Any], State]:
    """The attributes that a step changes, and the state that it leaves."""
    gone = state.host.keys() - done.attributes.keys()
    if gone:
        raise NotLinear(f"its step deletes {', '.join(sorted(gone))}")
    returned = sum(type(v) is Slot for v in leaves(done.returned))
    updates, host, numbers = {}, {}, {}

    def renumbered(value):  # from slots over all results to registers
        return Slot(numbers.setdefault(value.index, value.index - returned)) if type(value) is Slot else value

    for name, template in done.attributes.items():
        before = state.host.get(name, done)  # no attribute is equal to ``done``
        found = leaves(template)
        if any(type(v) is Slot for v in found):
            updates[name] = template
            host[name] = mapped(template, renumbered)
            continue
        if before is not done and _print(before) == _print(template):
            host[name] = before
            continue
        for value in found:
            if not (isinstance(value, torch.Tensor) or _immutable(value)):
                raise NotLinear(f"it keeps state in {name}, an object of class {type(value).__name__}")
        updates[name] = mapped(template, lambda value: _from_outside(value, done))
        host[name] = template
    if not updates:
        return updates, state
    return updates, State(state.scheduler_class, host, len(done.tensors) - returned)


def _from_outside(value: Any, done: Performed) -> Any:
    """What stands for a constant that came from the arguments: an argument itself, or sizes of the sample."""
    if isinstance(value, torch.Tensor):
        return next((Given(name) for name, handed in done.handed.items() if handed is value), value)
    if isinstance(value, torch.Size):
        shape = done.capture.shape
        return next((SizeFrom(first) for first in range(len(shape)) if shape[first:] == value), value)
    return value


def _verify(state: State, arguments, table: StepTable) -> None:
    """Compares the table with the step itself on random tensors, clamps included.

    Every dimension is longer than 1, so that steps which treat some samples, channels or pixels in another way are
    seen. Of what is clamped, some values have to be beyond the limits and others between them.
    """
    sizes = {1.5}
    for item in table.order:
        if isinstance(item, ClampRow):
            sizes.add(item.threshold.limit / max(math.hypot(*item.row), 1e-6))
    for size in sizes:
        _verify_on(state, arguments, table, size)


def _verify_on(state: State, arguments, table: StepTable, size: float) -> None:
    shape = torch.Size((2, 3, 5, 7))
    generator = torch.Generator().manual_seed(0)
    given = table.registers + table.tensors
    columns = size * torch.randn((table.columns, *shape), generator=generator, dtype=torch.float64)
    draws = iter([given + i for i, item in enumerate(table.order) if isinstance(item, NoiseDraw)])

    def random(column: int, dtype=None) -> torch.Tensor:
        column = next(draws) if column >= given else column
        return columns[column].to(dtype or torch.float64, copy=True)  # a step may write into it

    done = perform(state, arguments, shape, random, clamps=False)
    values = list(columns)
    for column, item in enumerate(table.order, given):
        if isinstance(item, ClampRow):
            values[column] = ops.threshold(_combined(item.row, values), item.threshold.limit, item.threshold.ratio)
    if len(done.tensors) != len(table.results):
        raise NotLinear("what it keeps depends on the values that it is given")
    for row, actual in zip(table.results, done.tensors, strict=True):
        bound = sum(abs(c) * float(v.abs().max()) for c, v in zip(row, values, strict=True))
        error = float((_combined(row, values) - actual.double()).abs().max())
        if not error <= 1e-5 * bound + 1e-30:
            raise NotLinear(
                f"its step is not linear: on random tensors it differs from its own coefficients by {error:.2g}, "
                f"where values reach {bound:.2g}"
            )


def _combined(row, values) -> torch.Tensor:
    total = torch.zeros_like(values[0])
    for c, v in zip(row, values, strict=False):
        total = total + c * v
    return total
