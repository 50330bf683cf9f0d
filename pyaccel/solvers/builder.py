"""The Builder: a solver is written as arithmetic on symbolic values and compiled to a Plan.

Between two model calls a solver only adds multiples of tensors. Written over :class:`Value` it records the
coefficients; nothing is computed on tensors. Four rules make the table small and right:

- A value is *born* at the number of stages made when it was created. What is created between two calls is
  expressed in what was there before and in the new prediction, however many steps of arithmetic lie between.
- A value becomes a register if it is needed after the next model call. Liveness runs backward from the result.
- Noise is never a register: a draw is known by its number, and whoever needs it again draws it again.
- No term is dropped because its value is 0: which terms there are depends on the solver and the grid alone.

Scalars may be floats or tensors, so the same code gives coefficients that are differentiable in learned times. The
compilation itself is in compiler.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..duals import Dual
from ..scalars import Scalar
from ..schedules import Schedule
from .exponential import Exponential
from .plan import Draw, Plan, Threshold


class Value:
    """A linear combination of earlier values; the empty combination is a value that is given to a stage."""

    __slots__ = ("born", "builder", "terms")

    def __init__(self, builder: Builder, born: int, terms: dict[Value, Scalar] | None = None):
        self.builder, self.born, self.terms = builder, born, terms

    def __add__(self, other: Value) -> Value:
        return self.builder.combine([(1.0, self), (1.0, other)])

    def __sub__(self, other: Value) -> Value:
        return self.builder.combine([(1.0, self), (-1.0, other)])

    def __mul__(self, factor: Scalar) -> Value:
        return self.builder.combine([(factor, self)])

    __rmul__ = __mul__

    def __truediv__(self, divisor: Scalar) -> Value:
        return self.builder.combine([(1.0 / divisor, self)])

    def __neg__(self) -> Value:
        return self.builder.combine([(-1.0, self)])

    @property
    def given(self) -> bool:
        """True for noise and predictions, which are not made of other values."""
        return self.terms is None


class Point:
    """A time and what the schedule says there. ``index`` is its place in the grid, −1 for a point between.

    ``lam`` is infinite at ``is_start`` (alpha = 0) and ``is_end`` (sigma = 0); solvers ask for these by name and
    never calculate with the infinities. ``before`` is the point of the grid that the run came from.
    """

    __slots__ = ("alpha", "before", "index", "is_end", "is_start", "lam", "model_time", "sigma", "t")

    def __init__(self, t, alpha, sigma, lam, model_time, index: int = -1, before: Point | None = None):
        self.t, self.alpha, self.sigma, self.lam, self.model_time = t, alpha, sigma, lam, model_time
        self.index, self.before = index, before
        self.is_start, self.is_end = bool(alpha == 0), bool(sigma == 0)

    @property
    def finite(self) -> bool:
        """Whether log-SNR is finite here."""
        return not (self.is_start or self.is_end)

    @property
    def ratio(self) -> Scalar:
        """sigma/alpha, the noise level of EDM; infinite at ``is_start``."""
        return float("inf") if self.is_start else self.sigma / self.alpha

    def form(self, preferred: str) -> str:
        """How a prediction here can be read: as x0 where there is nothing but noise, as noise where there is none."""
        return "sample" if self.is_start else "epsilon" if self.is_end else preferred


@dataclass
class Request:
    """One model call: at which point, with which input, read as which form, giving which value."""

    point: Point
    input: Value
    form: str
    output: Value
    to: Point | None = None


@dataclass
class Builder:
    """What a solver's function is handed. See :func:`pyaccel.solvers.dpmpp` for a solver written with it."""

    schedule: Schedule
    times: Sequence
    prediction: str
    lower_order_final: bool = True
    threshold: Threshold | None = None
    steps: int | None = None  # as the user gave them
    stages: list[list[Request]] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    corrector: object | None = None  # a UniC of unipc.py; it corrects where steps begin
    corrections: object | None = None  # the Corrections of a trained solver, which are added where steps begin

    def __post_init__(self):
        self.points = self._points_of(self.times)
        self.given = Value(self, 0)
        self.one = Value(self, -1)  # the constant 1, for solvers that add a bias
        self._corrected: dict[Value, Value] = {}
        self._at: Point | None = None  # where a step begins, until the call there is made

    def _points_of(self, times: Sequence) -> list[Point]:
        s = self.schedule
        if any(isinstance(t, torch.Tensor | Dual) for t in times):
            columns = zip(*((t, s.alpha(t), s.sigma(t), s.lam(t), s.model_time(t)) for t in times), strict=True)
        else:
            t = np.asarray(times, np.float64)
            columns = (list(times), *(f(t).tolist() for f in (s.alpha, s.sigma, s.lam, s.model_time)))
        points: list[Point] = []
        for index, values in enumerate(zip(*columns, strict=True)):
            points.append(Point(*values, index, points[-1] if points else None))
        return points

    # -- what solvers use ---------------------------------------------------------------------------------------------

    def noise(self) -> Value:
        """The first sample: sigma(start)·noise, or for a rising grid (inversion) the sample that the run is given."""
        return self.combine([(1.0 if self.rising else self.points[0].sigma, self.given)])

    @property
    def rising(self) -> bool:
        """Whether the grid leads from data to noise."""
        return bool(self.times[-1] > self.times[0])

    def intervals(self) -> Iterator[tuple[Point, Point]]:
        """(s, t) for each step, from the point s to the less noisy point t."""
        for s, t in zip(self.points, self.points[1:], strict=False):
            self._at = s
            yield s, t

    def point(self, t: Scalar | None = None, lam: Scalar | None = None) -> Point:
        """A point that is not of the grid, by its time or by its half log-SNR."""
        s = self.schedule
        if t is None:
            t = s.time_of_lam(lam)
        else:
            lam = s.lam(t)
        return Point(t, s.alpha(t), s.sigma(t), lam, s.model_time(t))

    def predict(self, x: Value, s: Point, form: str = "sample", to: Point | None = None) -> Value:
        """One model call on x at s; its output read as ``form``. Ends a stage. ``to`` is told to models of two
        times.
        """
        if s is not self._at or (self.corrector is None and self.corrections is None):
            return self.predict_many([(x, s)], form, to)[0]
        self._at, given = None, x
        if self.corrections is not None:
            x = self.corrections.sample(self, x)
        known = None if self.corrector is None else self.corrector.before_call(self, x, s, form)
        m = self.predict_many([(x, s)], form, to)[0]
        corrected = x if self.corrector is None else self.corrector.after_call(self, x, s, m, form, known)
        # What the solver goes on to call x is the corrected sample.
        self._corrected[given] = self._corrected[x] = corrected
        if self.corrections is not None:
            self.corrections.keep(corrected)
        return m

    def predict_many(self, calls: Sequence[tuple[Value, Point]], form: str = "sample", to=None) -> list[Value]:
        """Model calls that do not need one another, made at once; a value for each."""
        outputs = [Value(self, len(self.stages) + 1) for _ in calls]
        self.stages.append([Request(s, x, form, o, to) for (x, s), o in zip(calls, outputs, strict=True)])
        if self.corrections is not None:
            self.corrections.predictions += outputs
        return outputs

    def coefficient(self, name: str, value: Scalar) -> Scalar:
        """``value``; where the solver is trained, with a learned number added to it.

        For the weights of a step's newest predictions or of their differences, one for each of them: older
        predictions get a learned weight of their own.
        """
        return value if self.corrections is None else self.corrections.coefficient(name, value)

    def gaussian(self, s: Point, t: Point) -> Value:
        """Unit Gaussian noise for the step from s to t, independent of all other draws."""
        if self.rising:
            raise ValueError("the times rise from data to noise, and no noise can be added on that way")
        self.draws.append(Draw(float(s.t), float(t.t), float(s.ratio), float(t.ratio)))
        return _Noise(self, len(self.draws) - 1)

    def exponential_step(self, x: Value, d: Value, s: Point, t: Point, form: str = "sample") -> Value:
        """x_t from x at s where the prediction d, of x0 or of the noise, is held for the whole step.

        (sigma_t/sigma_s)·x − alpha_t·(e^(−h) − 1)·x0 (DPM-Solver++, eq. 9), with its limits where h is infinite.
        """
        step = Exponential(s, t, form)
        return step.scale * x + step.weight(0) * d

    def order_at(self, s: Point, t: Point, order: int, history: int) -> int:
        """The order that the step from s to t can have, given ``history`` usable predictions, the newest at s.

        1 at the infinite ends of log-SNR; falling to 1 over the last steps if lower_order_final is set.
        """
        if not (s.finite and t.finite):
            return 1
        left = len(self.points) - 1 - s.index
        return min(order, history, left) if self.lower_order_final else min(order, history)

    def combine(self, parts: Sequence[tuple[Scalar, Value]]) -> Value:
        """Σ factor·value, as one value."""
        now, corrected = len(self.stages), self._corrected
        terms: dict[Value, Scalar] = {}
        for factor, value in parts:
            if corrected:
                value = corrected.get(value, value)
            # What was made since the last call is not a register yet: its own terms take its place.
            if value.born == now and value.terms is not None:
                for operand, c in value.terms.items():
                    terms[operand] = terms[operand] + factor * c if operand in terms else factor * c
            else:
                terms[value] = terms[value] + factor if value in terms else factor
        return Value(self, now, terms)

    def plan(self, result: Value, **provenance) -> Plan:
        """The Plan that computes ``result``; with ``keep=True`` its numbers stay the scalars that they are."""
        from .compiler import compile_plan

        return compile_plan(self, result, **provenance)


class _Noise(Value):
    """A draw of noise, which is there at any time."""

    __slots__ = ("draw",)

    def __init__(self, builder: Builder, draw: int):
        super().__init__(builder, -1)
        self.draw = draw


def extended(history: list, s: Point, m: Value, order: int) -> list[tuple[Point, Value]]:
    """The last ``order`` predictions with their points, the newest first; older ones only where log-SNR is finite."""
    return [(s, m), *(pair for pair in history if pair[0].finite)][:order]
