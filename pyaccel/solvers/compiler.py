"""From the values and calls that a solver recorded to the rows of a Plan: liveness, registers, coefficients."""

from __future__ import annotations

import hashlib

import torch

from ..scalars import Scalar
from .builder import Builder, Value, _Noise
from .plan import Call, Plan, Row, Stage


def compile_plan(b: Builder, result: Value, keep: bool = False, **provenance) -> Plan:
    """The Plan that computes ``result``, a value of the builder ``b``.

    With ``keep`` the numbers of its rows and calls stay the scalars that the solver made, tensors or duals: such a plan
    is no file and cannot be run, but it knows its derivatives.
    """
    count = len(b.stages)
    if count == 0:
        raise ValueError("a solver has to call the model at least once")
    needed = _liveness(b, result)

    def plain(x: Scalar) -> Scalar:
        return x if keep else float(x)

    def number(c: Scalar) -> Scalar | str:
        return c if keep else _number(c, tensors)

    tensors: dict[str, torch.Tensor] = {}
    registers: dict[Value, int] = {}

    def allocate(values: dict[Value, None]) -> None:
        for gone in [v for v in registers if v not in values]:
            del registers[gone]
        taken = set(registers.values())
        free = (i for i in range(len(values) + len(taken) + 1) if i not in taken)
        for value in values:
            if value not in registers:
                registers[value] = next(free)

    def row(value: Value, held: dict[Value, int], new: list[Value]) -> Row:
        terms = {value: 1.0} if value.given else value.terms
        reads, noise, fresh, bias = {}, {}, dict.fromkeys(new, 0.0), 0.0
        for operand, c in terms.items():
            if isinstance(operand, _Noise):
                noise[operand.draw] = float(c)
            elif operand is b.one:
                bias = number(c)
            elif operand in fresh:
                fresh[operand] = number(c)
            else:
                reads[held[operand]] = number(c)
        return Row(registers[value], reads, tuple(fresh.values()), noise, bias)

    allocate(needed[0])
    start = [row(v, {}, [b.given]) for v in needed[0]]
    stages = []
    for index, requests in enumerate(b.stages):
        held = dict(registers)
        allocate(needed[index + 1])
        outputs = [r.output for r in requests]
        rows = [row(v, held, outputs) for v in needed[index + 1] if v.born == index + 1]
        calls = [
            Call(
                plain(r.point.t), plain(r.point.alpha), plain(r.point.sigma), plain(r.point.model_time),
                r.form, held[r.input], None if r.to is None else plain(r.to.model_time),
            )
            for r in requests
        ]  # fmt: skip
        stages.append(Stage(tuple(calls), tuple(rows)))
    first, last = b.points[0], b.points[-1]
    return Plan(
        start=tuple(start),
        stages=tuple(stages),
        output=registers[result],
        prediction=b.prediction,
        schedule=(b.schedule.name, dict(b.schedule.parameters)),
        times=tuple(plain(t) for t in b.times),
        ends=((float(first.alpha), float(first.sigma)), (float(last.alpha), float(last.sigma))),
        draws=tuple(b.draws),
        threshold=b.threshold,
        tensors=tensors,
        **provenance,
    )


def _liveness(b: Builder, result: Value) -> list[dict[Value, None]]:
    """For each stage, the values that it has to leave behind: born at or before it, needed after it."""
    needed: list[dict[Value, None]] = [{} for _ in range(len(b.stages) + 1)]

    def need(value: Value, after: int) -> None:
        # From the end of ``after`` back to its birth; where it is already needed, so it is before.
        for stage in range(after, value.born - 1, -1):
            if value in needed[stage]:
                return
            needed[stage][value] = None

    need(result, len(b.stages))
    for stage in range(len(b.stages), -1, -1):
        for value in list(needed[stage]):
            if value.born == stage and not value.given:
                for operand in value.terms:
                    new = operand.given and operand.born == stage
                    if not new and operand is not b.given and operand.born >= 0:
                        need(operand, stage - 1)
        if stage:
            for request in b.stages[stage - 1]:
                need(request.input, stage - 1)
    return needed


def _number(c: Scalar, tensors: dict[str, torch.Tensor]) -> float | str:
    """The coefficient as a float, or the name under which its tensor, one value for each element, is kept."""
    if not isinstance(c, torch.Tensor) or c.numel() == 1:
        return float(c)
    c = c.detach().contiguous()
    name = hashlib.sha256(repr(tuple(c.shape)).encode() + c.cpu().numpy().tobytes()).hexdigest()[:16]
    tensors[name] = c
    return name
