"""The Builder: a solver is written as arithmetic on symbolic values and compiled to a Plan.

Between two model calls a solver only adds multiples of tensors. Written over :class:`Value` it records the
coefficients; nothing is computed on tensors. Three rules make the table small and right:

- A value is *born* at the number of model calls made when it was created. What is created between two calls is
  expressed in what was there before and in the new prediction, however many steps of arithmetic lie between.
- A value becomes a register if it is needed after the next model call. Liveness runs backward from the result.
- No term is dropped because its value is 0: which terms there are depends on the solver and the grid alone.

Scalars may be floats or tensors, so the same code gives coefficients that are differentiable in learned times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..scalars import Scalar
from ..schedules import Schedule
from .exponential import psi
from .plan import Plan, Row, Stage


@dataclass(eq=False)
class Value:
    """A linear combination of earlier values; the empty combination is a value that a stage is given."""

    builder: Builder
    born: int
    terms: dict[Value, Scalar] = field(default_factory=dict)
    name: str = ""

    def __add__(self, other: Value) -> Value:
        return self.builder._combine([(1.0, self), (1.0, other)])

    def __sub__(self, other: Value) -> Value:
        return self.builder._combine([(1.0, self), (-1.0, other)])

    def __mul__(self, factor: Scalar) -> Value:
        return self.builder._combine([(factor, self)])

    __rmul__ = __mul__

    def __truediv__(self, divisor: Scalar) -> Value:
        return self.builder._combine([(1.0 / divisor, self)])

    def __neg__(self) -> Value:
        return self.builder._combine([(-1.0, self)])

    @property
    def given(self) -> bool:
        """True for the noise and the predictions, which are not made of other values."""
        return not self.terms


class Point:
    """A time of the grid and what the schedule says there. ``before`` is the point that the run came from.

    ``lam`` is infinite at ``is_start`` (alpha = 0) and ``is_end`` (sigma = 0); solvers ask for these by name and
    never calculate with the infinities.
    """

    def __init__(self, schedule: Schedule, t: Scalar, index: int, before: Point | None):
        self.t, self.index, self.before = t, index, before
        self.alpha, self.sigma = schedule.alpha(t), schedule.sigma(t)
        self.lam, self.model_time = schedule.lam(t), schedule.model_time(t)
        self.is_start, self.is_end = bool(self.alpha == 0), bool(self.sigma == 0)


@dataclass
class Call:
    """One model call: at which point, with which input, read as which form, giving which value."""

    point: Point
    input: Value
    form: str
    output: Value


class Builder:
    """What a solver's function is handed. See :func:`pyaccel.solvers.dpmpp` for a solver written with it."""

    def __init__(self, schedule: Schedule, times: list, prediction: str, lower_order_final: bool = True):
        self.schedule, self.times, self.prediction = schedule, times, prediction
        self.lower_order_final = lower_order_final
        self.calls: list[Call] = []
        self.points: list[Point] = []
        for index, t in enumerate(times):
            self.points.append(Point(schedule, t, index, self.points[-1] if self.points else None))
        self._noise = Value(self, 0, name="noise")

    # -- what solvers use ---------------------------------------------------------------------------------------------

    def noise(self) -> Value:
        """The first sample, sigma(start)·noise."""
        return self._combine([(self.points[0].sigma, self._noise)])

    def intervals(self) -> Iterator[tuple[Point, Point]]:
        """(s, t) for each step, from the point s to the less noisy point t."""
        return zip(self.points, self.points[1:], strict=False)

    def predict(self, x: Value, s: Point, form: str = "sample") -> Value:
        """One model call on x at s; its output read as x0 (``sample``) or ``epsilon``. Ends a stage."""
        output = Value(self, len(self.calls) + 1, name=f"m{len(self.calls)}")
        self.calls.append(Call(s, x, form, output))
        return output

    def exponential_step(self, x: Value, d: Value, s: Point, t: Point) -> Value:
        """x_t = (sigma_t/sigma_s)·x − alpha_t·(e^(−h) − 1)·d with h = lam_t − lam_s (DPM-Solver++, eq. 9).

        Exact where d, the prediction of x0, is constant. Written without h where h is infinite: at the start
        alpha_t·d enters in full, at the end the result is alpha_t·d.
        """
        if t.is_end:
            return t.alpha * d
        weight = 1.0 if s.is_start else psi(0, t.lam - s.lam)
        return (t.sigma / s.sigma) * x + (t.alpha * weight) * d

    def order_at(self, s: Point, t: Point, order: int, history: int) -> int:
        """The order that the step from s to t can have, given ``history`` usable predictions, the newest at s.

        1 at the infinite ends of log-SNR; falling to 1 over the last steps if lower_order_final is set.
        """
        if s.is_start or t.is_end:
            return 1
        left = len(self.points) - 1 - s.index
        return min(order, history, left) if self.lower_order_final else min(order, history)

    def _combine(self, parts: list[tuple[Scalar, Value]]) -> Value:
        now = len(self.calls)
        terms: dict[Value, Scalar] = {}
        for factor, value in parts:
            # What was made since the last call is not a register yet: its own terms take its place.
            inner = value.terms.items() if value.born == now and not value.given else [(value, 1.0)]
            for operand, c in inner:
                product = factor * c
                terms[operand] = terms[operand] + product if operand in terms else product
        return Value(self, now, terms)

    # -- compilation --------------------------------------------------------------------------------------------------

    def plan(self, result: Value, **provenance) -> Plan:
        """The Plan that computes ``result``."""
        count = len(self.calls)
        if count == 0:
            raise ValueError("a solver has to call the model at least once")
        # Backward: which values each stage has to leave behind (born at or before it, needed after it).
        needed: list[dict[Value, None]] = [{} for _ in range(count + 1)]

        def need(value: Value, after: int) -> None:
            """``value`` is used by something born after stage ``after``'s end, so it has to be there then."""
            for stage in range(value.born, after + 1):
                needed[stage][value] = None

        need(result, count)
        for stage in range(count, -1, -1):
            for value in list(needed[stage]):
                if value.born == stage:
                    for operand in value.terms:
                        if operand is not self._noise and not (operand.given and operand.born == stage):
                            need(operand, stage - 1)
            if stage:
                need(self.calls[stage - 1].input, stage - 1)

        registers: dict[Value, int] = {}

        def allocate(values: dict[Value, None]) -> None:
            for gone in [v for v in registers if v not in values]:
                del registers[gone]
            free = (i for i in range(len(values) + len(registers) + 1) if i not in set(registers.values()))
            for value in [v for v in values if v not in registers]:
                registers[value] = next(free)

        allocate(needed[0])
        start = [Row(registers[v], {}, float(v.terms[self._noise])) for v in needed[0]]
        stages = []
        for index, call in enumerate(self.calls):
            held = dict(registers)
            allocate(needed[index + 1])
            rows = []
            for value in needed[index + 1]:
                if value.born != index + 1:
                    continue
                terms = {value: 1.0} if value.given else value.terms
                reads = {held[v]: float(c) for v, c in terms.items() if v is not call.output}
                rows.append(Row(registers[value], reads, float(terms.get(call.output, 0.0))))
            p = call.point
            stages.append(
                Stage(
                    t=float(p.t),
                    alpha=float(p.alpha),
                    sigma=float(p.sigma),
                    model_time=float(p.model_time),
                    form=call.form,
                    input=held[call.input],
                    rows=tuple(rows),
                )
            )
        return Plan(
            start=tuple(start),
            stages=tuple(stages),
            output=registers[result],
            prediction=self.prediction,
            schedule=(self.schedule.name, dict(self.schedule.parameters)),
            times=tuple(float(t) for t in self.times),
            **provenance,
        )
