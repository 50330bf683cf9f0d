"""From a Plan back to symbolic arithmetic: by its solver's function, with other times, or by its own rows."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from .. import schedules
from .builder import Builder, Point, Value
from .family import SOLVERS
from .plan import Plan


class RowsBuilder(Builder):
    """A builder for the rows of a plan, whose points are known and not taken from a schedule."""

    @classmethod
    def of(cls, plan: Plan) -> RowsBuilder:
        """For this plan, of whatever schedule."""
        name, parameters = plan.schedule
        b = cls.__new__(cls)
        b._ends = plan.ends
        b.__init__(SimpleNamespace(name=name, parameters=parameters), plan.times, plan.prediction)
        return b

    def _points_of(self, times) -> list[Point]:
        first, last = self._ends
        return [Point(times[0], *first, None, None, 0), Point(times[-1], *last, None, None, len(times) - 1)]


def rows_of(b: Builder, plan: Plan) -> Value:
    """The result of ``plan`` as a value of ``b``: each stage with one call counts as a step."""
    registers = {row.target: b.combine([(row.new[0], b.given)]) for row in plan.start}
    for stage in plan.stages:
        calls = []
        for call in stage.calls:
            point = Point(call.t, call.alpha, call.sigma, None, call.model_time)
            calls.append((registers[call.input], point))
        call = stage.calls[0]
        to = None if call.to is None else Point(call.to, 1.0, 1.0, None, call.to)
        if len(calls) == 1:
            b._at = calls[0][1]
            outputs = [b.predict(*calls[0], call.form, to)]
        else:
            outputs = b.predict_many(calls, call.form, to)
        new = {}
        for row in stage.rows:
            parts = [(c, registers[r]) for r, c in row.reads.items()] + list(zip(row.new, outputs, strict=True))
            new[row.target] = b.combine([*parts, (row.bias, b.one)] if row.bias else parts)
        registers |= new
    return registers[plan.output]


def solver_of(plan: Plan) -> tuple[Callable[[Builder], Value], schedules.Schedule] | str:
    """(the function that made the plan, its schedule), or the reason why there is none that makes the same plan."""
    make = SOLVERS.get(plan.solver)
    if make is None or not hasattr(make, "function"):
        return f"{plan.solver!r} is no solver of pyaccel"
    options = dict(plan.options)
    lower_order_final = options.pop("lower_order_final", True)
    try:
        name, parameters = plan.schedule
        schedule = schedules.from_name(name, **parameters)
        b = Builder(schedule, plan.times, plan.prediction, lower_order_final, None, plan.steps)
        again = b.plan(make.function(b, **options))
    except (ValueError, TypeError) as error:
        return f"{plan.solver} does not make this plan again ({error})"
    if (again.start, again.stages, again.output) != (plan.start, plan.stages, plan.output):
        return f"{plan.solver} with the options of this plan makes another one"

    def function(b: Builder) -> Value:
        b.lower_order_final, b.steps = lower_order_final, plan.steps
        return make.function(b, **options)

    return function, schedule
