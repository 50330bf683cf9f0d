"""Binding a plan to a denoiser: what the model predicts and how its branches are weighted is folded into the rows.

With m_c = p_c·x_c + q_c·Σ_b w_b·o_cb, a row over registers and predictions m becomes a row over registers and model
outputs o: then one step is one matrix and one launch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import ops, predictions
from .plan import Plan, Row, Stage


@dataclass(frozen=True)
class Rows:
    """Coefficients [n][k] or [B][n][k] over tensors of ``in_dtypes`` and ``streams`` of noise that the kernel draws."""

    coefficients: list
    in_dtypes: list[torch.dtype]
    out_dtypes: list[torch.dtype]
    streams: tuple[int, ...]
    prepared: ops.Prepared | None  # None where each sample or each element has its own coefficients
    biases: list | None  # where there are coefficients for each element: what is added to each row


@dataclass(frozen=True)
class BoundStage:
    """A stage whose rows go from registers ``reads``, the model's outputs and draws of noise to registers ``writes``.

    ``fresh`` says of each written register whether anybody outside will see it. ``network_row`` is the row that the
    network reads next, in its own dtype; −1 for none. ``conversions`` give each call's x0 where the plan has a
    threshold; the rows are then over those.
    """

    reads: list[int]
    writes: list[int]
    fresh: list[bool]
    rows: Rows
    draws: list[int]
    network_row: int
    conversions: list[Rows] | None


@dataclass(frozen=True)
class Binding:
    """What the coefficients depend on beside the plan; ``in_kernel``: noise is drawn in the kernel."""

    prediction: str
    weights: tuple
    state: torch.dtype
    network: torch.dtype
    batch: int
    in_kernel: bool

    @property
    def samples(self) -> list[list[float]] | None:
        """The weights of each sample where they differ."""
        if not isinstance(self.weights[0], torch.Tensor):
            return None
        return [[float(w[i]) for w in self.weights] for i in range(self.batch)]


def bound_stages(plan: Plan, binding: Binding) -> tuple[Rows, list[BoundStage]]:
    """The start rows and the stages, remembered with the plan for what is the same in every run."""
    if binding.samples is not None:
        return _bind(plan, binding)
    key = (binding.prediction, binding.weights, binding.state, binding.network, binding.in_kernel)
    known = plan.__dict__.setdefault("_bound", {})
    if key not in known:
        known[key] = _bind(plan, binding)
    return known[key]


def _bind(plan: Plan, b: Binding) -> tuple[Rows, list[BoundStage]]:
    draws = plan.start_draws
    matrix = [[_value(row.new[0], plan), *_noise(row, draws)] for row in plan.start]
    start = _rows(matrix, [b.state], [b.state] * len(matrix), draws, b, [_value(row.bias, plan) for row in plan.start])
    fresh = _seen_outside(plan)
    stages = []
    for index, stage in enumerate(plan.stages):
        following = plan.stages[index + 1] if index + 1 < len(plan.stages) else None
        stages.append(_bind_stage(plan, stage, following, fresh[index], b))
    return start, stages


def _bind_stage(plan: Plan, stage: Stage, following: Stage | None, fresh: list[bool], b: Binding) -> BoundStage:
    reads, writes, draws = stage.reads, [r.target for r in stage.rows], stage.draws
    conversions, prediction, outputs = None, b.prediction, b.network
    samples = b.samples or [list(b.weights)]
    if plan.threshold is not None:
        pairs = [predictions.to_sample(b.prediction, c.alpha, c.sigma) for c in stage.calls]
        conversions = []
        for p, q in pairs:
            matrices = [[[p, *(q * w for w in weights)]] for weights in samples]
            ins = [b.state] + [b.network] * len(b.weights)
            conversions.append(_rows(matrices if b.samples else matrices[0], ins, [b.state], [], b))
        prediction, outputs, samples = "sample", b.state, [[1.0]]
    pairs = [predictions.convert(prediction, c.form, c.alpha, c.sigma) for c in stage.calls]
    matrices = [[_fold(row, reads, stage, pairs, weights, plan) for row in stage.rows] for weights in samples]
    network_row = -1
    if b.network != b.state and following is not None and len(following.calls) == 1:
        wanted = following.calls[0].input
        if wanted in writes:
            network_row = writes.index(wanted)
            matrices = [[*matrix, matrix[network_row]] for matrix in matrices]
    matrices = [[[*line, *_noise(row, draws)] for line, row in zip(m, _with(stage.rows, network_row), strict=True)]
                for m in matrices]  # fmt: skip
    ins = [b.state] * len(reads) + [outputs] * (len(stage.calls) * len(samples[0]))
    outs = [b.state] * len(writes) + [b.network] * (network_row >= 0)
    biases = [_value(row.bias, plan) for row in _with(stage.rows, network_row)]
    per_sample = b.samples is not None and conversions is None
    rows = _rows(matrices if per_sample else matrices[0], ins, outs, draws, b, biases)
    return BoundStage(reads, writes, fresh, rows, draws, network_row, conversions)


def _value(c: float | str, plan: Plan) -> float | torch.Tensor:
    return plan.tensors[c] if isinstance(c, str) else c


def _with(rows: tuple[Row, ...], network_row: int) -> list[Row]:
    return [*rows, *([rows[network_row]] if network_row >= 0 else [])]


def _noise(row: Row, draws: list[int]) -> list[float]:
    return [row.noise.get(d, 0.0) for d in draws]


def _fold(row: Row, reads: list[int], stage: Stage, pairs: list, weights: list[float], plan: Plan) -> list:
    """The row's coefficients over ``reads`` and the outputs of all calls, numbers or tensors."""
    registers = {r: _value(row.reads.get(r, 0.0), plan) for r in reads}
    outputs = []
    for call, c, (p, q) in zip(stage.calls, row.new, pairs, strict=True):
        c = _value(c, plan)
        if not isinstance(c, float) or c != 0.0:
            registers[call.input] = registers[call.input] + c * p
        outputs += [c * q * w for w in weights]
    return [*registers.values(), *outputs]


def _rows(matrix: list, ins: list, outs: list, draws: list[int], b: Binding, biases: list | None = None) -> Rows:
    streams = tuple(d + 1 for d in draws) if b.in_kernel else ()  # stream 0 is for the noise that a run starts from
    if not b.in_kernel:
        ins = [*ins, *[b.state] * len(draws)]
    per_sample = isinstance(matrix[0][0], list)
    tensors = any(isinstance(c, torch.Tensor) for line in (matrix[0] if per_sample else matrix) for c in line)
    if tensors or any(isinstance(bias, torch.Tensor) or bias != 0.0 for bias in biases or ()):
        if per_sample:
            raise ValueError("a plan with coefficients for each element takes guidance as one number")
        if streams:
            raise ValueError("a plan with coefficients for each element takes its noise as tensors: pass generator=")
        return Rows(matrix, ins, outs, streams, None, biases)
    prepared = None
    if not per_sample:
        prepared = ops.prepare(matrix, ins, outs, streams)
    return Rows(matrix, ins, outs, streams, prepared, None)


def _seen_outside(plan: Plan) -> list[list[bool]]:
    """For each stage and row, whether a model call or the caller will see what it writes."""
    seen, result = {plan.output}, []
    for stage in reversed(plan.stages):
        writes = [row.target for row in stage.rows]
        result.append([w in seen for w in writes])
        seen = (seen - set(writes)) | {call.input for call in stage.calls}
    return result[::-1]
