"""All numbers of a run as one tensor, differentiable in what they were made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .. import predictions
from ..duals import seeds, unpacked
from .binding import _fold
from .plan import Plan


class TableStage(NamedTuple):
    """Where a stage finds its numbers in the tensor of all numbers.

    ``times`` are the places of what the network is told, one for each call (``to`` of what a model of two times is told
    beside). The matrix [len(writes), len(reads) + outputs] lies at ``matrix``; row i goes to register ``writes[i]``.
    """

    times: tuple[int, ...]
    to: tuple[int, ...]
    inputs: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    matrix: slice


@dataclass(frozen=True)
class Table:
    """``numbers`` [M], float64; ``start`` maps registers to factors of the noise; ``output`` is the last register."""

    numbers: torch.Tensor
    start: dict[int, float]
    stages: tuple[TableStage, ...]
    output: int


def live_table(
    make: Callable[..., Plan], groups: tuple[torch.Tensor, ...], prediction: str, weights: tuple[float, ...]
) -> Table:
    """The table of the plan that ``make`` gives from the numbers of ``groups``, tensors of one dimension.

    Gradients flow to those of them that require one. A row over predictions becomes one over the outputs of a model
    that predicts ``prediction`` and whose branches have these ``weights``, as binding.py does it.
    """
    layout: list = []
    numbers = _Numbers.apply(lambda *lists: _written(make(*lists), prediction, weights, layout), *groups)
    start, stages, output = layout
    return Table(numbers, start, stages, output)


def _written(plan: Plan, prediction: str, weights: tuple[float, ...], layout: list) -> list:
    """All numbers of the plan's run, floats or duals; ``layout`` gets where they are."""
    numbers, stages = [], []

    def written(values: list) -> tuple[int, ...]:
        numbers.extend(values)
        return tuple(range(len(numbers) - len(values), len(numbers)))

    for stage in plan.stages:
        reads = stage.reads
        pairs = [predictions.convert(prediction, c.form, c.alpha, c.sigma) for c in stage.calls]
        times = written([c.model_time for c in stage.calls])
        to = written([c.to for c in stage.calls if c.to is not None])
        first = len(numbers)
        for row in stage.rows:
            numbers.extend(_fold(row, reads, stage, pairs, list(weights), plan))
        inputs, writes = tuple(c.input for c in stage.calls), tuple(row.target for row in stage.rows)
        stages.append(TableStage(times, to, inputs, tuple(reads), writes, slice(first, len(numbers))))
    layout[:] = [{row.target: float(row.new[0]) for row in plan.start}, tuple(stages), plan.output]
    return numbers


class _Numbers(torch.autograd.Function):
    """f(groups) by floats and duals: the Jacobian comes with the values."""

    @staticmethod
    def forward(ctx, f, *groups):
        wanted = ctx.needs_input_grad[1:]
        lists = [g.detach().cpu().double().tolist() for g in groups]
        ctx.sizes = [len(values) if need else None for values, need in zip(lists, wanted, strict=True)]
        ctx.like = [(g.dtype, g.device) for g in groups]
        learned = iter(seeds([v for values, need in zip(lists, wanted, strict=True) if need for v in values]))
        arguments = [[next(learned) for _ in vs] if need else vs for vs, need in zip(lists, wanted, strict=True)]
        values, jacobian = unpacked(f(*arguments), sum(size for size in ctx.sizes if size is not None))
        ctx.jacobian = torch.from_numpy(jacobian)
        return torch.from_numpy(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        parts = iter((grad @ ctx.jacobian).split([size for size in ctx.sizes if size is not None]))
        return None, *(
            None if size is None else next(parts).to(device=device, dtype=dtype)
            for size, (dtype, device) in zip(ctx.sizes, ctx.like, strict=True)
        )
