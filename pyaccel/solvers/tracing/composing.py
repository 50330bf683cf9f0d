"""From the tables of a scheduler's steps to one Plan: what ``Plan.trace`` does."""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ... import predictions
from ..builder import Builder, Point, Value, _Noise
from ..plan import Draw, Plan, Threshold
from .capture import NotLinear
from .probing import Argument, ClampRow, StepTable, perform_scaling, state_of
from .state import Snapshot

PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v", "flow_prediction": "flow"}
"""The names of predictions in schedulers' configurations and here."""


class Level(NamedTuple):
    """How noisy the sample is that the network sees at one of a scheduler's steps."""

    t: float
    alpha: float
    sigma: float
    model_time: float


class _Source(NamedTuple):
    """What stands in a traced Plan for its schedule."""

    name: str
    parameters: dict


@dataclass
class _Traced(Builder):
    """A builder whose points come from a scheduler."""

    known: list[Point] = field(default_factory=list)

    def _points_of(self, times) -> list[Point]:
        return self.known


def trace(scheduler, steps: int | None = None, *, begin: int = 0, **step_options) -> Plan:
    """See :meth:`pyaccel.solvers.Plan.trace`."""
    name = type(scheduler).__name__
    if not all(hasattr(scheduler, a) for a in ("step", "set_timesteps")):
        raise TypeError(f"{name} is not a scheduler: it needs step and set_timesteps")
    scheduler_class = getattr(type(scheduler), "_pyaccel_class", type(scheduler))
    scheduler = copy.deepcopy(scheduler)
    if steps is not None:
        scheduler.set_timesteps(steps)
    elif getattr(scheduler, "num_inference_steps", len(getattr(scheduler, "timesteps", ()))) in (None, 0):
        raise ValueError(f"{name}: call its set_timesteps first, or say how many steps to trace")
    if begin:
        scheduler.set_begin_index(begin)
    count = len(scheduler.timesteps)
    if not 0 <= begin < count:
        raise ValueError(f"{name}: begin must be from 0 to {count - 1}, got {begin}")
    config = getattr(scheduler, "config", {})
    levels = _levels(scheduler, begin)
    prediction = PREDICTIONS.get(_get(config, "prediction_type"), "flow" if is_flow(scheduler) else "epsilon")
    points: list[Point] = []
    for i, level in enumerate(levels):
        lam = math.log(level.alpha / level.sigma) if level.alpha > 0 and level.sigma > 0 else math.inf
        points.append(
            Point(level.t, level.alpha, level.sigma, lam, level.model_time, i, points[-1] if points else None)
        )
    state = state_of(scheduler_class, Snapshot(vars(scheduler)))
    tables, scalings = [], []
    for i in range(begin, count):
        scalings.append(perform_scaling(state, i))
        arguments = _arguments(scheduler_class, i, step_options)
        table = state.step(("trace", *arguments), lambda arguments=arguments: arguments)
        if isinstance(table, NotLinear):
            raise NotLinear(f"{name} is not a Plan: step {i} of {count}: {table}")
        tables.append(table)
        state = table.next
    threshold = _threshold(name, tables)
    b = _Traced(_Source(name, {}), [p.t for p in points], prediction, True, threshold, known=points)
    x = b.combine([(float(getattr(scheduler, "init_noise_sigma", 1.0)), b.given)])
    registers: list[Value] = []
    for i, (table, scaling) in enumerate(zip(tables, scalings, strict=True)):
        x, registers = _step(b, table, scaling, x, registers, points[i], points[i + 1], prediction, name)
    options = {k: v for k, v in step_options.items() if isinstance(v, (bool, int, float, str))}
    return _without_idle(b.plan(x, solver=name, options={"begin": begin, **options} if begin else options))


def _step(b, table: StepTable, scaling, x, registers, here, there, prediction, name) -> tuple[Value, list[Value]]:
    seen = x if scaling == 1.0 else b.combine([(scaling, x)])
    form = "sample" if any(isinstance(o, ClampRow) for o in table.order) else prediction
    m = b.predict(seen, here, form)
    columns: list[Value | None] = [*registers, m, x]
    used = [any(row[c] != 0.0 for row in table.results) for c in range(table.columns)]
    for c, item in enumerate(table.order, len(columns)):
        if isinstance(item, ClampRow):
            p, q = predictions.to_sample(prediction, here.alpha, here.sigma)
            expected = [0.0] * table.registers + [q, p * scaling]
            if any(abs(a - e) > 1e-4 * max(1.0, abs(e)) for a, e in zip(item.row, expected, strict=True)):
                raise NotLinear(f"{name} clamps something else than its prediction of x0, and a Plan only that")
            columns.append(m)
            columns[table.registers] = None
        elif used[c]:
            b.draws.append(Draw(here.t, there.t, *(item.sigmas or (_ratio(here), _ratio(there)))))
            columns.append(_Noise(b, len(b.draws) - 1))
        else:
            columns.append(None)
    if columns[table.registers] is None and used[table.registers]:
        raise NotLinear(
            f"{name} goes on with a prediction both as it was and clamped, where a Plan holds one of them; "
            "pyaccel.integrations.diffusers.fuse serves it"
        )
    values = [_value(b, row, columns) for row in table.results]
    return values[0], values[len(values) - table.next.registers :]


def _value(b: _Traced, row: tuple[float, ...], columns: list[Value | None]) -> Value:
    """The combination, or the very value that a scheduler only moved from one attribute to another."""
    terms = [(c, v) for c, v in zip(row, columns, strict=True) if c != 0.0]
    if len(terms) == 1 and terms[0][0] == 1.0 and not isinstance(terms[0][1], _Noise):
        return terms[0][1]
    return b.combine(terms)


def _without_idle(plan: Plan) -> Plan:
    """The plan without the noise that a scheduler draws and multiplies with 0, and without calls whose output it does
    not use (PNDM's last one).
    """
    used = sorted({d for stage in plan.stages for d in stage.draws})
    numbers = {d: i for i, d in enumerate(used)}
    stages = tuple(
        replace(stage, rows=tuple(replace(r, noise={numbers[d]: c for d, c in r.noise.items()}) for r in stage.rows))
        for stage in plan.stages
        if stage.rows
    )
    return replace(plan, stages=stages, draws=tuple(plan.draws[d] for d in used))


def _arguments(scheduler_class: type, index: int, step_options: dict[str, Any]) -> tuple[Argument, ...]:
    parameters = inspect.signature(scheduler_class.step).parameters
    unknown = step_options.keys() - parameters.keys()
    if unknown:
        raise TypeError(f"{scheduler_class.__name__}.step has no argument {', '.join(sorted(unknown))}")
    first = [
        Argument("model_output", "tensor", 0),
        Argument("timestep", "time", index),
        Argument("sample", "tensor", 1),
    ]
    plain = dict(step_options)
    if "return_dict" in parameters:
        plain["return_dict"] = False
    return (*first, *(Argument(name, "plain", (type(value), value)) for name, value in plain.items()))


def _threshold(name: str, tables: list[StepTable]) -> Threshold | None:
    clamps = [[o for o in table.order if isinstance(o, ClampRow)] for table in tables]
    kinds = {o.threshold for row in clamps for o in row}
    if not kinds:
        return None
    if len(kinds) > 1 or any(len(row) != 1 for row in clamps):
        raise NotLinear(f"{name} clamps in some of its steps and not in others, and a Plan does it in all or none")
    return kinds.pop()


def _levels(scheduler, begin: int) -> list[Level]:
    """Where each step from ``begin`` on stands, and the end."""
    config = getattr(scheduler, "config", {})
    train = float(_get(config, "num_train_timesteps") or 1000)
    times = [float(t) for t in scheduler.timesteps]
    sigmas = getattr(scheduler, "sigmas", None)
    sigmas = None if sigmas is None or len(sigmas) < len(times) else [float(s) for s in sigmas]
    cumprod = getattr(scheduler, "alphas_cumprod", None)
    rising = len(times) > 1 and times[-1] > times[0]
    levels = []
    for i in range(begin, len(times)):
        if is_flow(scheduler) and sigmas is not None:
            alpha, sigma, t = 1 - sigmas[i], sigmas[i], sigmas[i]
        elif sigmas is not None:
            norm = math.hypot(1.0, sigmas[i])
            alpha, sigma, t = 1 / norm, sigmas[i] / norm, times[i] / train
        elif cumprod is not None:
            squared = float(cumprod[max(0, min(len(cumprod) - 1, round(times[i])))])
            alpha, sigma, t = math.sqrt(squared), math.sqrt(max(0.0, 1 - squared)), times[i] / train
        elif len(getattr(scheduler, "alphas", ())) == len(getattr(scheduler, "betas", ())) == len(times) + 1:
            alpha, sigma, t = float(scheduler.alphas[i]), float(scheduler.betas[i]), times[i] / train  # iPNDM
        else:
            raise NotLinear(f"{type(scheduler).__name__} has neither sigmas nor alphas_cumprod: its levels are unknown")
        levels.append(Level(t, alpha, sigma, times[i]))
    end = Level(1.0, levels[-1].alpha, levels[-1].sigma, train) if rising else Level(0.0, 1.0, 0.0, 0.0)
    return [*levels, end]


def is_flow(scheduler) -> bool:
    """Whether the scheduler's samples are (1 − sigma)·x0 + sigma·noise."""
    config = getattr(scheduler, "config", {})
    if _get(config, "use_flow_sigmas") or _get(config, "prediction_type") == "flow_prediction":
        return True
    return not hasattr(scheduler, "alphas_cumprod") and hasattr(scheduler, "sigmas") and not _get(config, "sigma_data")


def _get(config, name: str):
    return config.get(name) if hasattr(config, "get") else getattr(config, name, None)


def _ratio(point: Point) -> float:
    return math.inf if point.is_start else float(point.sigma / point.alpha)
