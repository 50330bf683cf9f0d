"""The executor: runs a Plan, one launch per model call: conversion, guidance, history and next sample are one matrix.

Binding a plan to a denoiser folds what the model predicts and how its branches are weighted into each stage's rows:
with m = p·x + q·Σ_b w_b·o_b, a row over registers and m becomes a row over registers and model outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .. import ops, predictions
from ..denoiser import Run, StepContext, announce
from ..progress import progress_bar
from .plan import Plan, Stage


@dataclass(frozen=True)
class BoundStage:
    """A stage whose coefficients go from registers ``reads`` and the model's outputs to registers ``writes``."""

    reads: list[int]
    writes: list[int]
    coefficients: list
    prepared: ops.Prepared | None  # None where each sample has its own coefficients
    network_row: int  # which row the network reads next, in its own dtype; -1 for none


def bind(
    plan: Plan, prediction: str, weights: list, state: torch.dtype, network: torch.dtype, batch: int
) -> list[BoundStage]:
    """The plan's stages for a model that predicts ``prediction`` in branches with ``weights`` (numbers or [B])."""
    per_sample = isinstance(weights[0], torch.Tensor)
    if per_sample and len(weights[0]) != batch:
        raise ValueError(f"guidance is given for {len(weights[0])} samples, the noise has {batch}")
    samples = [[float(w[i]) for w in weights] for i in range(batch)] if per_sample else [[float(w) for w in weights]]
    bound = []
    for index, stage in enumerate(plan.stages):
        reads = sorted({r for row in stage.rows for r in row.reads} | {stage.input})
        p, q = predictions.convert(prediction, stage.form, stage.alpha, stage.sigma)
        matrices = [[_fold(row, reads, stage, p, q, w) for row in stage.rows] for w in samples]
        writes, row = [r.target for r in stage.rows], -1
        if network != state and index + 1 < plan.calls and plan.stages[index + 1].input in writes:
            row = writes.index(plan.stages[index + 1].input)
            matrices = [[*matrix, matrix[row]] for matrix in matrices]
        prepared = None
        if not per_sample:
            ins, outs = [state] * len(reads) + [network] * len(weights), [state] * len(writes) + [network] * (row >= 0)
            prepared = ops.prepare(matrices[0], ins, outs)
        bound.append(BoundStage(reads, writes, matrices if per_sample else matrices[0], prepared, row))
    return bound


def _fold(row, reads: list[int], stage: Stage, p: float, q: float, weights: list[float]) -> list[float]:
    registers = [row.reads.get(r, 0.0) + (row.new * p if r == stage.input else 0.0) for r in reads]
    return [*registers, *(row.new * q * w for w in weights)]


def run(
    plan: Plan,
    denoiser: Callable[..., torch.Tensor],
    noise: torch.Tensor,
    callback: Callable[[int, float, torch.Tensor], torch.Tensor | None] | None,
    progress: bool,
    grad: bool,
    conditioning: dict,
) -> torch.Tensor:
    """See :meth:`Plan.sample`."""
    _check_noise(noise)
    keep_graph = torch.is_grad_enabled() and (grad or noise.requires_grad)
    with torch.set_grad_enabled(keep_graph), progress_bar(f"sampling ({plan.solver})", plan.calls, progress) as bar:
        return _run(plan, denoiser, noise, callback, bar, conditioning)


def _run(plan, denoiser, noise, callback, bar, conditioning) -> torch.Tensor:
    state = torch.float64 if noise.dtype == torch.float64 else torch.float32
    network = getattr(denoiser, "dtype", None) or noise.dtype
    branches = getattr(denoiser, "branches", None) or (lambda x, t, **c: [denoiser(x, t, **c)])
    weights = getattr(denoiser, "weights", [1.0])
    prediction = getattr(denoiser, "prediction", None) or plan.prediction
    stages = _bound(plan, prediction, weights, state, network, len(noise))

    registers: dict[int, torch.Tensor] = {}
    dtypes = [state] * len(plan.start)
    for row, tensor in zip(
        plan.start, ops.linear_combination([noise], [[row.new] for row in plan.start], dtype=dtypes), strict=True
    ):
        registers[row.target] = tensor
    seen = registers[plan.stages[0].input].to(network)
    model_times = torch.tensor([stage.model_time for stage in plan.stages], dtype=torch.float64)
    # One tensor of all times at once: a small launch less for each step.
    times = model_times.to(noise.device, state)[:, None].repeat(1, len(noise)).unbind()
    identity, calls = Run(), plan.calls

    for index, (stage, step) in enumerate(zip(plan.stages, stages, strict=True)):
        with announce(StepContext(identity, index, calls, stage.t)):
            outputs = branches(seen, times[index], **conditioning)
        for output in outputs:
            _check_output(output, noise, index, stage)
        tensors = [*(registers[r] for r in step.reads), *outputs]
        results = _combine(step, tensors, state, network)
        registers.update(zip(step.writes, results, strict=False))
        edited = False
        if callback is not None:
            target = plan.stages[index + 1].input if index + 1 < calls else plan.output
            replacement = callback(index, stage.t, registers[target].clone())
            if replacement is not None:
                registers[target] = replacement.to(state)
                edited = True
        if index + 1 < calls:
            seen = registers[plan.stages[index + 1].input]
            if network != state:
                seen = results[-1] if step.network_row >= 0 and not edited else seen.to(network)
        bar.advance(1)
    return registers[plan.output].to(noise.dtype)


def _combine(step: BoundStage, tensors: list[torch.Tensor], state, network) -> list[torch.Tensor]:
    """The stage's new registers, and the network's next input if it has a row of its own.

    They are new tensors each time: whoever kept an earlier sample (a callback, a denoiser that records its inputs)
    never sees it change.
    """
    if step.prepared is None or torch.is_grad_enabled():
        dtypes = [state] * len(step.writes) + [network] * (step.network_row >= 0)
        return ops.linear_combination(tensors, step.coefficients, dtype=dtypes)
    like = tensors[0]
    new = [torch.empty_like(like) for _ in step.writes]
    if step.network_row >= 0:
        new.append(torch.empty_like(like, dtype=network))
    return step.prepared(tensors, new)


def _bound(plan: Plan, prediction: str, weights: list, state, network, batch: int) -> list[BoundStage]:
    """:func:`bind`, remembered with the plan for what is the same in every run."""
    if isinstance(weights[0], torch.Tensor):
        return bind(plan, prediction, weights, state, network, batch)
    key = (prediction, tuple(weights), state, network)
    known = plan.__dict__.setdefault("_bound", {})
    if key not in known:
        known[key] = bind(plan, prediction, weights, state, network, batch)
    return known[key]


def _check_noise(noise: torch.Tensor) -> None:
    if not isinstance(noise, torch.Tensor):
        raise TypeError(f"noise must be a tensor [B, ...] of unit Gaussian noise, got {type(noise).__name__}")
    if noise.dtype not in ops.DTYPES:
        raise TypeError(f"noise has dtype {noise.dtype}; expected one of {', '.join(map(str, ops.DTYPES))}")
    if noise.dim() < 1:
        raise ValueError("noise must be [B, ...] with a batch dimension, got a tensor without dimensions")


def _check_output(output, noise: torch.Tensor, index: int, stage: Stage) -> None:
    if isinstance(output, torch.Tensor) and output.shape == noise.shape:
        return  # nothing is put into words on the hot path
    where = f"model call {index} (t = {stage.t:.5g})"
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"{where} returned a {type(output).__name__}, expected a tensor like the noise")
    hint = ""
    doubled = output.dim() == noise.dim() > 1 and output.shape[1] == 2 * noise.shape[1]
    if doubled and output.shape[2:] == noise.shape[2:]:
        hint = "; it looks like a prediction with a learned variance: pass on output.chunk(2, dim=1)[0]"
    raise ValueError(f"{where} returned shape {tuple(output.shape)}, expected {tuple(noise.shape)}{hint}")
