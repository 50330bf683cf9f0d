"""A Plan's run recorded as CUDA graphs, so that a step costs the host one launch, whatever the model is made of.

Where all that changes from one step to the next is numbers, steps of one kind share a graph: its coefficients and times
are rows of tables in the GPU's memory, and the graph counts the rows. Otherwise (parallel calls, thresholds, guidance
for each sample, or a model that asks which step it is in, as feature caches do) each step is recorded by itself.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import ops
from ..denoiser import Run, StepContext, announce
from ..progress import progress_bar
from .executor import PlanRun, finite
from .noise import seeds_of
from .plan import Plan
from .run_checks import check_run


class CapturedPlan:
    """A plan, a denoiser and a shape as recorded graphs; :meth:`Plan.capture` makes it.

    It holds the memory of a whole run, and its calls must not overlap. The model's weights may change in place between
    two calls; the model itself, its mode and its hooks are those of the recording.
    """

    def __init__(self, plan: Plan, denoiser, noise: torch.Tensor, conditioning: dict[str, Any], graphs):
        check_run(plan, denoiser, noise)
        tensors = {name: t.to(noise.device) for name, t in plan.tensors.items()}
        self.plan = dataclasses.replace(plan, tensors=tensors) if tensors else plan
        self._noise = torch.empty_like(noise, memory_format=torch.contiguous_format)
        # What the graphs read, and what it is again where a call leaves it out.
        self._conditioning, self._recorded = (
            {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in conditioning.items()}
            for _ in range(2)
        )
        self._draws = _Draws(plan, self._noise)
        self._run = PlanRun(self.plan, denoiser, self._noise, self._draws)
        self._row = torch.zeros(1, dtype=torch.int64, device=noise.device)
        self._running = threading.Lock()
        with torch.no_grad():
            self._noise.copy_(noise)
            self._draws.fill(plan.start_draws, range(len(noise)))
            asked = []
            graphs.warm_up(lambda: self._rehearse(asked))
            self.shared = not asked and all(map(self._only_numbers_change, range(len(plan.stages))))
            self._registers: dict[int, torch.Tensor] = {}
            self._begin()
            self._steps = self._record_kinds(graphs) if self.shared else self._record_each(graphs)

    @property
    def graphs(self) -> int:
        """How many different graphs there are."""
        return len({id(step.replay) for step in self._steps})

    @torch.no_grad()
    def __call__(
        self,
        noise: torch.Tensor,
        *,
        seed: int | Sequence[int] | None = None,
        callback: Callable[[int, float, torch.Tensor], torch.Tensor | None] | None = None,
        progress: bool = False,
        **conditioning,
    ) -> torch.Tensor:
        """The sample from ``noise``; arguments and errors are those of :meth:`Plan.sample`.

        Noise and conditioning have the shapes and dtypes that they were recorded with, and what is no tensor the same
        value; conditioning that is left out is that of the recording.
        """
        if noise.shape != self._noise.shape or noise.dtype != self._noise.dtype:
            raise ValueError(
                f"noise is {tuple(noise.shape)} in {noise.dtype}; the plan was captured for "
                f"{tuple(self._noise.shape)} in {self._noise.dtype}"
            )
        if self.plan.draws and seed is None:
            raise ValueError(f"{self.plan.solver} adds noise on its way: pass seed=0, or a seed for each sample")
        if not self._running.acquire(blocking=False):
            raise RuntimeError("this captured plan is running already; capture another for a second thread")
        try:
            self._set_conditioning(conditioning)
            seeds = seeds_of(seed, len(noise)) if self.plan.draws else []
            self._noise.copy_(noise)
            self._draws.fill(self.plan.start_draws, seeds)
            self._begin()
            with progress_bar(f"sampling ({self.plan.solver})", self.plan.calls, progress) as bar:
                for index, (stage, step) in enumerate(zip(self.plan.stages, self._steps, strict=True)):
                    self._draws.fill(stage.draws, seeds)
                    step.replay()
                    if callback is not None:
                        replacement = callback(index, stage.t, step.sample.clone())
                        if replacement is not None:
                            step.sample.copy_(replacement)
                            if step.ahead is not None:
                                step.ahead.copy_(replacement)
                    bar.advance(len(stage.calls))
            result = self._steps[-1].sample.to(noise.dtype, copy=True)
        finally:
            self._running.release()
        if not finite(result):
            raise FloatingPointError(
                "the sample has NaN or infinite values; plan.sample(...) says which call gave them"
            )
        return result

    def _set_conditioning(self, given: dict[str, Any]) -> None:
        for name, value in {**self._recorded, **given}.items():
            if name not in self._conditioning:
                raise ValueError(f"{name} was not there when the plan was captured, only {sorted(self._conditioning)}")
            own = self._conditioning[name]
            if isinstance(own, torch.Tensor):
                if not isinstance(value, torch.Tensor) or value.shape != own.shape or value.dtype != own.dtype:
                    what = f"{tuple(value.shape)} in {value.dtype}" if isinstance(value, torch.Tensor) else repr(value)
                    raise ValueError(f"{name} is {what}; it was captured as {tuple(own.shape)} in {own.dtype}")
                own.copy_(value)
            elif value is not own and value != own:
                raise ValueError(f"{name} is {value!r}; it was captured as {own!r}, which is part of the graphs")

    # ---- recording --------------------------------------------------------------------------------------------------

    def _rehearse(self, asked: list) -> None:
        """A whole run; ``asked`` is added to where the model asks for the run that it is in."""

        class Watched(StepContext):
            @property
            def run(self):
                asked.append(True)
                return self[0]

        run, identity, ahead = self._run, Run(), None
        run.begin()
        for index, stage in enumerate(self.plan.stages):
            with announce(Watched(identity, index, len(self.plan.stages), stage.t)):
                ahead = run.update(index, run.call(index, ahead, self._conditioning))

    def _only_numbers_change(self, index: int) -> bool:
        """Whether this stage is one call and one matrix of numbers."""
        calls, rows = self.plan.stages[index].calls, self._run.stages[index].rows
        return len(calls) == 1 and calls[0].to is None and self.plan.threshold is None and rows.prepared is not None

    def _begin(self) -> None:
        """The start rows, in the registers that the graphs read."""
        self._run.registers = {}
        self._run.begin()
        for target, tensor in self._run.registers.items():
            self._static(target).copy_(tensor)
        self._run.registers = dict(self._registers)
        self._row.zero_()

    def _static(self, register: int) -> torch.Tensor:
        if register not in self._registers:
            self._registers[register] = torch.empty_like(self._noise, dtype=self._run.state)
        return self._registers[register]

    def _record_each(self, graphs) -> list[_Step]:
        steps, identity, ahead = [], Run(), None
        count = len(self.plan.stages)
        for index, stage in enumerate(self.plan.stages):

            def work(index=index, stage=stage, before=ahead):
                nonlocal ahead
                with announce(StepContext(identity, index, count, stage.t)):
                    ahead = self._run.update(index, self._run.call(index, before, self._conditioning))

            replay = graphs.record(work)
            steps.append(_Step(replay, self._run.registers[self.plan.sample_register(index)], ahead))
        return steps

    def _record_kinds(self, graphs) -> list[_Step]:
        run, stages = self._run, self._run.stages
        for register in {r for stage in stages for r in (*stage.reads, *stage.writes)}:
            self._static(register)
        run.registers = self._registers
        network = torch.empty_like(self._noise, dtype=run.network)
        ahead = [None] + [network if stage.network_row >= 0 else None for stage in stages]
        coefficients = dict[tuple, torch.Tensor]()
        times, recorded, steps = torch.stack(list(run.times)), {}, []
        for index, stage in enumerate(stages):
            call, rows = self.plan.stages[index].calls[0], stage.rows
            kind = (call.input, ahead[index] is None, *map(tuple, (stage.reads, stage.writes, rows.out_dtypes)))
            kind += (stage.network_row, len(stage.draws))
            if kind not in recorded:
                table = torch.zeros(len(stages), len(rows.coefficients), len(rows.coefficients[0]), dtype=torch.float64)
                coefficients[kind] = table.to(self._noise.device, run.state)
                recorded[kind] = graphs.record(
                    lambda index=index, table=coefficients[kind], ahead=ahead[index]: self._step(
                        index, ahead, network, times, table
                    )
                )
            coefficients[kind][index] = torch.tensor(rows.coefficients, dtype=torch.float64).to(coefficients[kind])
            sample = self._static(self.plan.sample_register(index))
            steps.append(_Step(recorded[kind], sample, ahead[index + 1]))
        return steps

    def _step(self, index: int, ahead, network: torch.Tensor, times: torch.Tensor, table: torch.Tensor) -> None:
        """The call and the update of a stage, with the times and coefficients of the row that is counted."""
        run, stage = self._run, self._run.stages[index]
        x = run.registers[self.plan.stages[index].calls[0].input] if ahead is None else ahead
        time = times.index_select(0, self._row)[0]
        outputs = run.branches(x.to(run.network), time, **self._conditioning)
        tensors = [*map(run.registers.__getitem__, stage.reads), *outputs, *self._draws.tensors(stage.draws)]
        out = [run.registers[target] for target in stage.writes] + [network] * (stage.network_row >= 0)
        ops.linear_combination(tensors, table.index_select(0, self._row)[0], out=out)
        self._row.add_(1)


@dataclasses.dataclass(frozen=True)
class _Step:
    """How a stage runs again, the sample after it, and the same in the network's dtype where that is another tensor."""

    replay: Callable[[], None]
    sample: torch.Tensor
    ahead: torch.Tensor | None


class _Draws:
    """The noise of a stage in tensors that graphs read, drawn before the stage runs."""

    in_kernel = False
    seeds = None

    def __init__(self, plan: Plan, like: torch.Tensor):
        most = max([len(plan.start_draws), *(len(stage.draws) for stage in plan.stages)])
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._slots = [torch.zeros_like(like, dtype=dtype) for _ in range(most)]

    def fill(self, draws: Sequence[int], seeds: Sequence[int]) -> None:
        """Stream 0 is for the noise that a run starts from, as in binding.py."""
        for slot, d in zip(self._slots, draws, strict=False):
            slot.copy_(ops.normal(slot.shape, list(seeds), d + 1, device=slot.device, dtype=slot.dtype))

    def tensors(self, draws: Sequence[int]) -> list[torch.Tensor]:
        return self._slots[: len(draws)]
