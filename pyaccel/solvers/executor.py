"""The executor: runs a Plan, one launch per model call: conversion, guidance, history and next sample are one matrix.

What is folded beforehand is in binding.py; where the noise of a stochastic plan comes from is in noise.py; a kept
region of an image is in inpainting.py.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable

import torch

from .. import ops
from ..denoiser import Run, StepContext, announce, branches_of, repeated
from ..progress import progress_bar
from .binding import Binding, BoundStage, Rows, bound_stages
from .inpainting import Kept
from .noise import GivenNoise, KernelNoise, noise_source
from .plan import Plan, Stage
from .recycling import Recycler
from .run_checks import call_name, check_image, check_run, refuse, with_batched_guidance
from .thresholding import threshold_


def run(
    plan: Plan,
    denoiser: Callable[..., torch.Tensor],
    noise: torch.Tensor,
    *,
    seed,
    generator,
    noise_sampler,
    image: torch.Tensor | None,
    mask: torch.Tensor | None,
    batched_guidance: bool | None,
    callback: Callable[[int, float, torch.Tensor], torch.Tensor | None] | None,
    progress: bool,
    grad: bool,
    conditioning: dict,
) -> torch.Tensor:
    """See :meth:`Plan.sample`."""
    check_run(plan, denoiser, noise)
    source = noise_source(plan, noise, seed, generator, noise_sampler)
    denoiser = with_batched_guidance(denoiser, batched_guidance)
    if image is not None:
        check_image(image, noise)
    kept = Kept.of(plan, noise, image, mask)
    if plan.draws:
        noise = noise.contiguous()  # the position in the sample decides which noise an element gets
    keep_graph = torch.is_grad_enabled() and (grad or noise.requires_grad)
    with torch.set_grad_enabled(keep_graph), progress_bar(f"sampling ({plan.solver})", plan.calls, progress) as bar:
        # Looking at every output as it comes would wait for the device at every step: a second run tells which it was.
        # Where the run cannot be made again, a sum of each output is kept, and read at the end.
        once = callback is not None or isinstance(source, GivenNoise)
        first = PlanRun(plan, denoiser, noise, source, kept, image, sums=[] if once else None)
        result = first.go(callback, bar, conditioning)
        if not finite(result):
            if not finite(noise) or not (image is None or finite(image)):
                raise FloatingPointError("the noise, or the image, has NaN or infinite values")
            second = first if once else PlanRun(plan, denoiser, noise, source, kept, image, sums=[])
            if not once:
                second.go(None, bar, conditioning)
            raise FloatingPointError(second.explanation())
    return result


class PlanRun:
    """One run of a plan with one denoiser; ``go`` makes its calls, or somebody else makes them between ``begin`` and
    ``update``.
    """

    def __init__(
        self,
        plan: Plan,
        denoiser,
        noise: torch.Tensor,
        source: KernelNoise | GivenNoise,
        kept: Kept | None = None,
        image: torch.Tensor | None = None,
        sums: list[torch.Tensor] | None = None,
    ):
        self.plan, self.noise, self.source, self.kept, self.image, self.sums = plan, noise, source, kept, image, sums
        self.state = torch.float64 if noise.dtype == torch.float64 else torch.float32
        self.network = getattr(denoiser, "dtype", None) or noise.dtype
        self.denoiser = denoiser
        weights = tuple(getattr(denoiser, "weights", (1.0,)))
        prediction = getattr(denoiser, "prediction", None) or plan.prediction
        binding = Binding(prediction, weights, self.state, self.network, len(noise), source.in_kernel)
        self.start, self.stages = bound_stages(plan, binding)
        self.scratch: dict[int, torch.Tensor] = {}
        self.recycler = Recycler(noise)
        self.registers: dict[int, torch.Tensor] = {}
        self._spreads: dict[tuple[float, ...], torch.Tensor] = {}

    def go(self, callback, bar, conditioning: dict) -> torch.Tensor:
        """The sample."""
        plan, registers, kept = self.plan, self.registers, self.kept
        self.begin()
        if kept is not None:
            kept.restore(registers, plan.stages[0])
        identity, count, ahead = Run(), len(plan.stages), None
        scope = _recorded if torch.autograd._profiler_enabled() else announce

        for index, stage in enumerate(plan.stages):
            with scope(StepContext(identity, index, count, stage.t)):
                outputs = self.call(index, ahead, conditioning)
                ahead = self.update(index, outputs)
                outputs = None
            following = plan.stages[index + 1] if index + 1 < count else None
            if kept is not None:
                kept.restore(registers, following)
                ahead = None
            if callback is not None:
                target = plan.sample_register(index)
                replacement = callback(index, stage.t, registers[target].clone())
                if replacement is not None:
                    registers[target] = replacement.to(self.state)
                    ahead = None
            bar.advance(len(stage.calls))
        return registers[plan.output].to(self.noise.dtype)

    def explanation(self) -> str:
        """Which model call's output was not finite, from the sums."""
        each = len(self.sums) // self.plan.calls
        names = [name for calls in _calls(self.plan) for name in calls]
        for i, total in enumerate(self.sums):
            if not math.isfinite(float(total)):
                return f"{names[i // each]} returned NaN or infinite values"
        return (
            "the sample has NaN or infinite values, and all outputs of the model are finite: the sample grew beyond "
            "all bounds, or the model gives something else each time"
        )

    @property
    def branches(self) -> Callable[..., list[torch.Tensor]]:
        """Makes a call and returns the output of each branch; not kept, as a run may be pickled."""
        return branches_of(self.denoiser)

    @functools.cached_property
    def times(self) -> tuple[torch.Tensor, ...]:
        """What the model is told in each stage [B], by its first call; made at once: a small launch less for each."""
        model_times = torch.tensor([stage.calls[0].model_time for stage in self.plan.stages], dtype=torch.float64)
        return model_times.to(self.noise.device, self.state)[:, None].repeat(1, len(self.noise)).unbind()

    def call(self, index: int, ahead: torch.Tensor | None, conditioning: dict) -> list[torch.Tensor]:
        """The model's outputs in stage ``index``; ``ahead`` is its input where the last update has made it."""
        calls, shape = self.plan.stages[index].calls, self.noise.shape
        if len(calls) == 1 and calls[0].to is None:
            x = self.registers[calls[0].input] if ahead is None else ahead
            outputs = self.branches(
                x if x.dtype is self.network else x.to(self.network), self.times[index], **conditioning
            )
        else:
            outputs = self._several(index, conditioning)
        for output in outputs:
            if not isinstance(output, torch.Tensor) or output.shape != shape:
                refuse(output, shape, _calls(self.plan)[index])
            if self.sums is not None:
                self.sums.append(_sum(output))
        return outputs

    def begin(self) -> None:
        """The start rows."""
        given = self.noise.to(self.state)
        if self.image is not None:
            (alpha, sigma), _ = self.plan.ends
            given = ops.linear_combination([given, self.image.to(given)], [[1.0, alpha / sigma]])[0]
        first = self._combine(self.start, [given, *self.source.tensors(self.plan.start_draws)], None, None)
        self.registers.update(zip((row.target for row in self.plan.start), first, strict=True))

    def update(self, index: int, outputs: list[torch.Tensor]) -> torch.Tensor | None:
        """The registers after stage ``index``, whose calls gave ``outputs``; the next call's input in the network's
        dtype, where that is another one than the state's.
        """
        stage, step, registers = self.plan.stages[index], self.stages[index], self.registers
        if step.conversions is not None:
            outputs = self._thresholded(stage, step, outputs)
        tensors = [*map(registers.__getitem__, step.reads), *outputs]
        if step.draws:
            tensors += self.source.tensors(step.draws)
        results = self._combine(step.rows, tensors, step.writes, step.fresh)
        if self.recycler.active:
            del tensors, outputs
            for target in step.writes:
                if target in registers and target not in self.scratch:
                    old = registers.pop(target)
                    self.recycler.offer(old)
        for target, tensor in zip(step.writes, results, strict=False):
            registers[target] = tensor
        return results[-1] if step.network_row >= 0 else None

    def _combine(self, rows: Rows, tensors: list, writes: list[int] | None, fresh: list[bool] | None) -> list:
        """The rows' values. What somebody outside will see is a new tensor each time: whoever kept an earlier sample
        (a callback, a denoiser that records its inputs) never sees it change. The rest is written over."""
        if rows.biases is not None:
            return _elementwise(rows, tensors)
        if rows.prepared is None or torch.is_grad_enabled():
            noise = ops.Noise(self.source.seeds, rows.streams) if rows.streams else None
            return ops.linear_combination(tensors, rows.coefficients, dtype=rows.out_dtypes, noise=noise)
        like, new = tensors[0], []
        for i, dtype in enumerate(rows.out_dtypes):
            if fresh is None or i >= len(writes) or fresh[i]:
                new.append(
                    self.recycler.new(like, dtype) if self.recycler.active else torch.empty_like(like, dtype=dtype)
                )
                continue
            buffer = self.scratch.get(writes[i])
            if buffer is None:
                buffer = self.scratch[writes[i]] = torch.empty_like(like, dtype=dtype)
            new.append(buffer)
        return rows.prepared(tensors, new, self.source.seeds)

    def _spread(self, values: tuple[float, ...]) -> torch.Tensor:
        """Times of several calls, each for a whole batch."""
        if values not in self._spreads:
            times = torch.tensor(values, dtype=torch.float64).to(self.noise.device, self.state)
            self._spreads[values] = times.repeat_interleave(len(self.noise))
        return self._spreads[values]

    def _several(self, index: int, conditioning: dict) -> list[torch.Tensor]:
        """The outputs of a stage with parallel calls, made as one call of a larger batch, or of a model of two
        times.
        """
        calls = self.plan.stages[index].calls
        x = torch.cat([self.registers[c.input] for c in calls]).to(self.network)
        conditioning = repeated(conditioning, len(calls))
        if calls[0].to is not None:
            conditioning["to"] = self._spread(tuple(c.to for c in calls))
        outputs = self.branches(x, self._spread(tuple(c.model_time for c in calls)), **conditioning)
        if len(calls) == 1:
            return list(outputs)
        for output in outputs:
            if not isinstance(output, torch.Tensor) or output.shape != x.shape:
                refuse(output, x.shape, _calls(self.plan)[index])
        parts = [output.chunk(len(calls)) for output in outputs]
        return [branch[c] for c in range(len(calls)) for branch in parts]

    def _thresholded(self, stage: Stage, step: BoundStage, outputs: list) -> list[torch.Tensor]:
        """x0 of each call, clamped."""
        each = len(outputs) // len(stage.calls)
        results = []
        for i, (call, rows) in enumerate(zip(stage.calls, step.conversions, strict=True)):
            inputs = [self.registers[call.input], *outputs[i * each : (i + 1) * each]]
            (x0,) = self._combine(rows, inputs, None, None)
            results.append(threshold_(x0, self.plan.threshold))
        return results


def _elementwise(rows: Rows, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Rows with a coefficient for each element of a sample, and a bias."""
    state, device = rows.out_dtypes[0], tensors[0].device
    on_device = [[_moved(c, device, state) for c in line] for line in rows.coefficients]
    results = []
    for line, bias, dtype in zip(on_device, rows.biases, rows.out_dtypes, strict=True):
        total = torch.zeros_like(tensors[0], dtype=state) + _moved(bias, device, state)
        for c, tensor in zip(line, tensors, strict=True):
            total = total + c * tensor.to(state)
        results.append(total.to(dtype))
    return results


def _moved(c, device, dtype):
    return c.to(device, dtype) if isinstance(c, torch.Tensor) else c


@contextlib.contextmanager
def _recorded(context: StepContext):
    """:class:`announce`, with a range of the stage's name in torch's profiler, which is recording."""
    with announce(context), torch.profiler.record_function(f"pyaccel stage {context.step} t={context.t:.4g}"):
        yield


def _sum(x: torch.Tensor) -> torch.Tensor:
    # Finite only where all are; its own overflow, in the type of the state, is out of question.
    return x.detach().sum(dtype=torch.promote_types(x.dtype, torch.float32))


def finite(x: torch.Tensor) -> bool:
    """Whether all of ``x`` is; reads one number from the device."""
    return math.isfinite(float(_sum(x)))


def _calls(plan: Plan) -> list[list[str]]:
    """For each stage, what an error calls its model calls."""
    number = itertools.count()
    return [[call_name(next(number), call.t) for call in stage.calls] for stage in plan.stages]
