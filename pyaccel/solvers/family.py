"""What all solvers share: from a function over a Builder to a function that returns a Plan, and their register."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence

from .. import predictions, time_grids
from ..names import look_up
from ..schedules import Schedule
from .builder import Builder
from .plan import Plan

SOLVERS: dict[str, Callable[..., Plan]] = {}

_NATURAL_PREDICTION = {"flow": "flow", "edm": "sample", "ve": "sample"}


def solver(function: Callable) -> Callable[..., Plan]:
    """Turns ``function(b, **options) -> Value`` into ``NAME(schedule, steps=N, ...) -> Plan`` and registers it."""
    name = function.__name__
    known = list(inspect.signature(function).parameters.values())[1:]

    @functools.wraps(function)
    def make(
        schedule: Schedule,
        steps: int | None = None,
        *,
        times: Sequence[float] | None = None,
        prediction: str | None = None,
        lower_order_final: bool = True,
        grid: str | time_grids.Grid = "uniform",
        start: float = 1.0,
        end: float = 0.0,
        **options,
    ) -> Plan:
        if not isinstance(schedule, Schedule):
            raise TypeError(
                f"{name}: schedule must be a pyaccel Schedule such as flow(), got {type(schedule).__name__}"
            )
        unknown = set(options) - {p.name for p in known}
        if unknown:
            raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}; it has {_option_names(known)}")
        if (steps is None) == (times is None):
            raise ValueError(f"{name}: give either steps=N or times=[N + 1 falling times], got {steps=} and {times=}")
        grid_times = time_grids.make(schedule, steps, grid, start, end) if times is None else time_grids.check(times)
        prediction = predictions.check(prediction or _NATURAL_PREDICTION.get(schedule.name, "epsilon"))
        if schedule.sigma(grid_times[0]) == 0:
            raise ValueError(f"{name}: there is no noise at the first time {grid_times[0]}")
        b = Builder(schedule, grid_times, prediction, lower_order_final)
        defaults = {p.name: p.default for p in known}
        chosen = {**defaults, **options, "lower_order_final": bool(lower_order_final)}
        return b.plan(function(b, **options), solver=name, options=chosen)

    make.__signature__ = inspect.signature(make).replace(
        parameters=[
            *list(inspect.signature(make, follow_wrapped=False).parameters.values())[:-1],
            *map(_keyword, known),
        ]
    )
    make.__doc__ = f"{inspect.cleandoc(function.__doc__)}\n\n{_COMMON}"
    SOLVERS[name] = make
    return make


_COMMON = """Args:
    schedule: the noise schedule that the model was trained with.
    steps: number of intervals of the time grid; or
    times: the N + 1 times themselves, falling from noise (1) to data (0).
    prediction: what a bare function is taken to return; by default flow for a flow schedule, sample for edm and ve,
        otherwise epsilon. A Denoiser knows its own.
    lower_order_final: lower the order over the last steps.
    grid: uniform, quadratic, log_snr, karras, or a function like those of pyaccel.time_grids.
    start, end: first and last time of the grid.

Raises ValueError for steps, times, names or options that do not fit."""


def _keyword(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _option_names(parameters) -> str:
    common = ["steps", "times", "prediction", "lower_order_final", "grid", "start", "end"]
    return ", ".join([*(p.name for p in parameters), *common])


def option(solver_name: str, name: str, value, allowed: Sequence) -> None:
    """ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed or isinstance(value, bool):
        raise ValueError(f"{solver_name}: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def from_name(name: str) -> Callable[..., Plan]:
    """The solver called ``name``; ValueError with the nearest name when there is none."""
    return look_up("solver", name, SOLVERS)
