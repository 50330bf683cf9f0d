"""A run by a :class:`Table` with gradients to its numbers: backpropagation through the whole trajectory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint as recomputed

from .. import ops
from ..denoiser import branches_of, repeated
from ..ops.inner_products import STACKED
from .run_checks import check_noise, refuse
from .table import Table, TableStage


def run_table(
    table: Table,
    denoiser: Callable[..., torch.Tensor],
    noise: torch.Tensor,
    checkpoint: bool,
    conditioning: dict,
    seen: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """The sample like ``noise``; see :class:`TrainablePlan`. ``seen(stage, x)`` gets the new sample after each stage.

    The numbers of the table go to the device of the noise once; nothing is read back from it.
    """
    check_noise(noise)
    state = torch.float64 if noise.dtype == torch.float64 else torch.float32
    network = getattr(denoiser, "dtype", None) or noise.dtype
    branches = branches_of(denoiser)
    numbers = table.numbers.to(noise.device, non_blocking=True)
    told, x = numbers.to(state), noise.to(state)
    registers = {register: factor * x for register, factor in table.start.items()}

    def call(stage: TableStage) -> list[torch.Tensor]:
        x = [registers[i].to(network) for i in stage.inputs]
        x = x[0] if len(x) == 1 else torch.cat(x)
        t, to = (_spread(told, places, len(noise)) for places in (stage.times, stage.to))
        arguments = conditioning if len(stage.inputs) == 1 else repeated(conditioning, len(stage.inputs))
        arguments = arguments if to is None else {**arguments, "to": to}
        if checkpoint and torch.is_grad_enabled():
            outputs = recomputed(branches, x, t, use_reentrant=False, **arguments)
        else:
            outputs = branches(x, t, **arguments)
        for output in outputs:
            if not isinstance(output, torch.Tensor) or output.shape != x.shape:
                refuse(output, x.shape, ["a model call"])
        parts = [output.chunk(len(stage.inputs)) for output in outputs]
        return [branch[c] for c in range(len(stage.inputs)) for branch in parts]

    for index, stage in enumerate(table.stages):
        tensors = [registers[r] for r in stage.reads] + call(stage)
        matrix = numbers[stage.matrix].view(len(stage.writes), len(tensors))
        registers.update(zip(stage.writes, _combined(tensors, matrix, state), strict=True))
        if seen is not None:
            last = index + 1 == len(table.stages)
            seen(index, registers[table.output if last else table.stages[index + 1].inputs[0]])
    return registers[table.output].to(noise.dtype)


def _combined(tensors: list[torch.Tensor], matrix: torch.Tensor, state: torch.dtype) -> tuple[torch.Tensor, ...]:
    """The rows of ``matrix`` [n, k] over k tensors.

    On a GPU the samples of a training batch are small: a few launches for all of them cost less than kernels for each
    number of inputs and outputs, forward and backward. It is no matrix product, which TF32 would round.
    """
    first = tensors[0]
    if first.device.type == "cpu" or first.numel() * len(tensors) > STACKED:
        return tuple(ops.linear_combination(tensors, matrix, dtype=[state] * len(matrix)))
    rows = torch.stack([t.to(state).flatten() for t in tensors])
    return (matrix.to(state)[:, :, None] * rows).sum(1).view(len(matrix), *first.shape).unbind()


def _spread(told: torch.Tensor, places: tuple[int, ...], batch: int) -> torch.Tensor | None:
    """The numbers at ``places``, each for ``batch`` samples."""
    if not places:
        return None
    return told[places[0] : places[-1] + 1, None].expand(-1, batch).reshape(-1)
