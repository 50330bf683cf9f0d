"""Where a fused scheduler stands in its run: the state, its registers, and what it has done so far."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from ...denoiser import Run, StepContext
from ...solvers.tracing import (
    Given,
    NoiseDraw,
    NotLinear,
    Slot,
    Snapshot,
    State,
    StepTable,
    filled,
    run_step,
    state_of,
)
from .arguments import Bound, Form, Times

UNKNOWN_ARGUMENTS = "arguments of another kind than tensors like the sample, numbers and generators"
WRITTEN_TO = "attributes were written to between two steps"
MAKES_SAMPLER = "the scheduler makes its noise sampler"
_get_ident = threading.get_ident
_TWO_THREADS = (
    "two threads run one scheduler at once, and its state belongs to one run: give each thread a pipeline of its own "
    "(copy.deepcopy(pipe), or type(pipe)(**components) with the same models and a deep copy of the scheduler), or put "
    "a lock around the pipeline"
)


class Track:
    """The run of one fused scheduler."""

    def __init__(self, original=None):
        self.original = original
        self.warned = False
        self.fused_steps = 0
        self.original_steps: Counter[str] = Counter()
        self.beginning = threading.RLock()  # held while a run is set up
        self._inside = False
        self._owner: int | None = None  # the thread that began this run or took its last step
        self._overtaken: set[int] = set()
        self._restart()

    def _restart(self) -> None:
        self.state: State | None = None
        self.registers: list[torch.Tensor] = []
        self.times: Times | None = None
        self.refused: str | None = None
        self.run_identity, self.done, self.first = Run(), 0, 0
        self._values: tuple = ()
        self._stepped_here = False  # whether the registers are what a fused step left
        self._lists: list = []
        self._versions: list = []

    def begin(self, scheduler, anew: bool = True) -> None:
        """Another run begins in this thread, or, if not ``anew``, the one that has just begun is set up further.

        From then on a thread whose run was not finished may take no step of it: neither its times nor its state are
        there any more.
        """
        me = _get_ident()
        if self._inside or (not anew and me in self._overtaken):
            raise RuntimeError(_TWO_THREADS)
        left = getattr(scheduler, "num_inference_steps", None) and len(scheduler.timesteps) - self.first - self.done
        if self._owner not in (None, me) and left:
            self._overtaken.add(self._owner)
        self._overtaken.discard(me)
        self._owner = me
        self._restart()

    def enter(self) -> None:
        """One step begins; one thread at a time, and none whose run another thread has ended."""
        me = _get_ident()
        if self._inside or me in self._overtaken:
            raise RuntimeError(_TWO_THREADS)
        self._inside, self._owner = True, me

    def leave(self) -> None:
        """The step is over."""
        self._inside = False

    def look(self, scheduler) -> State:
        """The state that the scheduler's attributes make, found anew where it is not known."""
        if self.state is None:
            if vars(scheduler).get("is_scale_input_called") is False:
                warnings.warn(
                    f"{type(scheduler).__name__}: call scale_model_input before step, as every pipeline does; the "
                    "model saw samples of another size than it was trained for",
                    UserWarning,
                    stacklevel=4,
                )
            snapshot = Snapshot(vars(scheduler))
            self.state = state_of(type(scheduler)._pyaccel_class, snapshot)
            self.registers, self.times = snapshot.registers, Times.of(scheduler.timesteps)
            self._values, self._lists, self._stepped_here = tuple(vars(scheduler).values()), [], False
        return self.state

    def peek(self, scheduler) -> tuple[State, list]:
        """State and registers, without taking note of them: what comes before the next step may change them."""
        if self.state is not None:
            return self.state, self.registers
        snapshot = Snapshot(vars(scheduler))
        return state_of(type(scheduler)._pyaccel_class, snapshot), snapshot.registers

    def untouched(self, scheduler) -> bool:
        """Whether the scheduler's attributes are those that the last step left."""
        try:  # identical objects are equal without a comparison; others may have no truth value
            if tuple(vars(scheduler).values()) != self._values:
                return False
            for held, elements in self._lists:
                if tuple(held) != elements:
                    return False
        except Exception:
            return False
        return all([tensor._version == version for tensor, version in self._versions])  # noqa: C419 - a generator costs more

    def fits(self, bound: Bound) -> bool:
        """Whether what the scheduler remembers has the sample's shape."""
        shape = bound.tensors[0].shape
        if self._stepped_here:  # then all of them are like the last sample
            return not self.registers or self.registers[0].shape == shape
        return all(r.shape == shape for r in self.registers)

    def run(self, scheduler, table: StepTable, form: Form, bound: Bound):
        """The step by its table: the attributes are written, and what the original would return is returned.

        Raises NotLinear, before anything happens, where there is no table.
        """
        if type(table) is NotLinear:
            raise NotLinear(str(table))
        draw = None
        if table.order:
            if any(_by_sampler(item) for item in table.order) and scheduler.noise_sampler is None:
                return self._continued(scheduler, table, form, bound)
            draw = _source(scheduler, form, bound, table)
        results = run_step(table, self.registers + bound.tensors, draw)
        attributes = vars(scheduler)
        attributes.update(table.constants)
        for name, index in table.slots:
            attributes[name] = results[index]
        if table.others:
            given = dict(zip(form.names, bound.values, strict=True))
            for name, template in table.others:
                attributes[name] = filled(template, results, given)
        self._advance(attributes, table, results)
        self.fused_steps += 1
        if table.returns:
            return tuple(results[: table.returns])
        returned = filled(table.returned, results)
        return returned if table.returned_class is None else table.returned_class(**returned)

    def _continued(self, scheduler, table: StepTable, form: Form, bound: Bound):
        """The original's step where all of its result is known but for a noise sampler that it makes first."""
        returned = type(scheduler)._pyaccel_class.step(scheduler, **dict(zip(form.names, bound.values, strict=True)))
        results: list[Any] = [None] * len(table.results)
        for name, template in table.updates.items():
            _collect(template, vars(scheduler)[name], results)
        self._advance(vars(scheduler), table, results)
        self.original_steps[MAKES_SAMPLER] += 1
        return returned

    def _advance(self, attributes: dict, table: StepTable, results: list) -> None:
        self.state = table.next
        self.registers = results[len(results) - table.next.registers :]
        self._values, self._stepped_here = tuple(attributes.values()), True
        self._lists = [(held := attributes[name], tuple(held)) for name in table.lists]
        if self.done == 0:
            tables = (attributes.get(name) for name in ("sigmas", "timesteps"))
            self._versions = [(t, t._version) for t in tables if isinstance(t, torch.Tensor) and not t.is_inference()]
            self.first = int(attributes.get("_begin_index") or 0)
        self.done += 1

    def by_the_original(self, returned, reason: str):
        """The original's step has been taken, and why; the state has to be looked at anew."""
        self.original_steps[reason] += 1
        self.state = None
        self.done += 1
        return returned

    def warn(self, scheduler_class: type) -> None:
        """Says once that somebody writes to the scheduler's attributes."""
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"the attributes of this {scheduler_class.__name__} were written to between two steps: the original's "
                "step takes the next one (said once)",
                UserWarning,
                stacklevel=3,
            )

    # -- accounts -----------------------------------------------------------------------------------------------------

    def position(self, scheduler) -> StepContext | None:
        """See :meth:`FusedScheduler.pyaccel_position`."""
        if getattr(scheduler, "num_inference_steps", None) is None or self._owner not in (None, _get_ident()):
            return None  # no run, or another thread's
        first = self.first or int(getattr(scheduler, "_begin_index", None) or 0)
        times, steps = scheduler.timesteps, len(scheduler.timesteps) - first
        if self.done >= steps:
            return None
        t = float(times[first + self.done]) if times.is_cpu else float("nan")  # never read from a device
        return StepContext(self.run_identity, self.done, steps, t)

    def summary(self, name: str) -> str:
        """See :meth:`FusedScheduler.pyaccel_summary`."""
        lines = [f"{name}: {self.fused_steps} fused steps, {self.original_steps.total()} by the original"]
        lines += [f"  {count} × {reason}" for reason, count in self.original_steps.most_common()]
        return "\n".join(lines)


def _source(scheduler, form: Form, bound: Bound, table: StepTable):
    """Draws noise as the original would: the same numbers from the same generators."""
    sample = bound.values[form.sample]
    generator = None if form.generator is None else bound.values[form.generator]

    device = sample.device
    direct = generator is None or (type(generator) is torch.Generator and generator.device == device)

    def draw(noise: NoiseDraw) -> torch.Tensor:
        if noise.kind == "sampler":
            return scheduler.noise_sampler(*noise.sigmas)
        if noise.kind == "like":
            return torch.randn_like(sample, dtype=noise.dtype)
        if direct:  # what randn_tensor comes to
            return torch.randn(sample.shape, generator=generator, device=device, dtype=noise.dtype)
        return randn_tensor(sample.shape, generator=generator, device=device, dtype=noise.dtype)

    return draw


def _by_sampler(item) -> bool:
    return type(item) is NoiseDraw and item.kind == "sampler"


def _collect(template: Any, value: Any, results: list) -> None:
    """The tensors at the slots of ``template`` in ``value``."""
    if type(template) is Slot:
        results[template.index] = value
    elif type(template) is dict:
        for key in template:
            _collect(template[key], value[key], results)
    elif isinstance(template, (list, tuple)) and type(template) is not Given:
        for part, held in zip(template, value, strict=True):
            _collect(part, held, results)
