"""What all solvers share: from a function over a Builder to a function that returns a Plan, and their register."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .. import predictions, time_grids
from ..names import look_up
from ..schedules import Schedule
from .builder import Builder
from .plan import Plan, Threshold
from .settings import check_options, checked_threshold, chosen_times, given_times, natural_prediction

SOLVERS: dict[str, Callable[..., Plan]] = {}


@dataclass(frozen=True)
class About:
    """What ``pyaccel solvers`` says of a solver.

    ``order`` and ``calls`` (a step) are texts, as they may depend on options; ``stochastic`` is None where it does.
    """

    name: str
    summary: str
    paper: str = ""
    order: str = ""
    calls: str = "1"
    stochastic: bool | None = False
    students: bool = False
    options: tuple[str, ...] = ()


def solver(
    function: Callable | None = None,
    *,
    paper: str = "",
    order: str = "",
    calls: str = "1",
    stochastic: bool | None = False,
    students: bool = False,
    grid: str | None = None,
    finite: bool = False,
    lowers: bool = True,
    intervals: Callable[[int, int], int] | None = None,
) -> Callable:
    """Turns ``function(b, **options) -> Value`` into ``NAME(schedule, steps=N, ...) -> Plan`` and registers it.

    Args:
        paper, order, calls, stochastic, students: what :class:`About` says.
        grid: the default time grid; without one Karras' for edm, otherwise uniform.
        finite: whether the solver needs a finite log-SNR at its first time; it then starts at ``schedule.t_max`` where
            pure noise has none.
        lowers: whether ``lower_order_final`` is set unless the user says otherwise.
        intervals: intervals of the grid for a number of ``steps``, where they differ; also told how many of the two
            ends of log-SNR are infinite.
    """
    if function is None:
        return functools.partial(
            solver, paper=paper, order=order, calls=calls, stochastic=stochastic, students=students, grid=grid,
            finite=finite, lowers=lowers, intervals=intervals,
        )  # fmt: skip
    name, default_grid = function.__name__, grid
    known = list(inspect.signature(function).parameters.values())[1:]

    @functools.wraps(function)
    def make(
        schedule: Schedule,
        steps: int | None = None,
        *,
        times: Sequence[float] | None = None,
        prediction: str | None = None,
        lower_order_final: bool = lowers,
        grid: str | time_grids.Grid | Sequence[float] | None = None,
        start: float | None = None,
        end: float | None = None,
        final: str | None = None,
        inverse: bool = False,
        threshold: float | Threshold | None = None,
        **options,
    ) -> Plan:
        if not isinstance(schedule, Schedule):
            raise TypeError(
                f"{name}: schedule must be a pyaccel Schedule such as flow(), got {type(schedule).__name__}"
            )
        check_options(name, function, options)
        if (steps is None) == (times is None):
            raise ValueError(f"{name}: give either steps=N or times=[N + 1 monotone times], got {steps=} and {times=}")
        prediction = predictions.check(prediction or natural_prediction(schedule))
        threshold = checked_threshold(name, threshold)
        if times is None:
            # Of a pure end a model of the noise knows no data, and one of the data no noise.
            if start is None:
                blind = schedule.alpha(1.0) == 0 and (finite or prediction == "epsilon")
                start = schedule.t_max if blind else 1.0
            if end is None:
                blind = inverse and schedule.sigma(0.0) == 0 and (prediction == "sample" or threshold is not None)
                end = schedule.t_min if blind else 0.0
            times = chosen_times(
                name, schedule, steps, grid=grid, default=default_grid, start=start, end=end, final=final or "zero",
                intervals=intervals,
            )  # fmt: skip
            times = times[::-1] if inverse else times
        else:
            times = given_times(name, times, inverse, {"grid": grid, "start": start, "end": end, "final": final})
        rising = times[-1] > times[0]
        if rising and stochastic:
            raise ValueError(f"{name}: the times rise from data to noise, and no noise can be added on that way")
        if not rising and schedule.sigma(times[0]) == 0:
            raise ValueError(f"{name}: there is no noise at the first time {times[0]}")
        if finite and schedule.alpha(times[0]) == 0:
            raise ValueError(
                f"{name} needs a finite log-SNR, and at the first time {times[0]} of {schedule.name} there is nothing "
                f"but noise; start at {schedule.t_max:.4g}"
            )
        b = Builder(schedule, times, prediction, lower_order_final, threshold, steps)
        defaults = {p.name: p.default for p in known}
        chosen = {**defaults, **options, "lower_order_final": bool(lower_order_final)}
        result = function(b, **options)
        if rising:
            result = result / b.points[-1].sigma
        return b.plan(result, solver=name, options={k: _plain(v) for k, v in chosen.items()})

    make.__signature__ = inspect.signature(make).replace(
        parameters=[
            *list(inspect.signature(make, follow_wrapped=False).parameters.values())[:-1],
            *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in known),
        ]
    )
    text = inspect.cleandoc(function.__doc__ or f"{name}.")
    make.__doc__ = f"{text}\n\n{_COMMON}"
    summary = text.splitlines()[0].rstrip(".")
    make.about = About(name, summary, paper, order, calls, stochastic, students, tuple(p.name for p in known))
    make.function = function
    SOLVERS[name] = make
    return make


_COMMON = """Args:
    schedule: the noise schedule that the model was trained with.
    steps: number of intervals of the time grid; or
    times: the N + 1 times themselves, falling from noise (1) to data (0), or rising, for inversion.
    prediction: what a bare function is taken to return; by default flow for a flow schedule, sample for edm and ve,
        otherwise epsilon. A Denoiser knows its own.
    lower_order_final: lower the order over the last steps.
    grid: a name of pyaccel.time_grids, or a function like those there; by default the solver's own, or karras for
        edm and uniform otherwise. A list of falling times, such as those that a student was trained at, is a grid of
        as many of them as there are steps, evenly chosen; for more steps than times it is the default.
    start, end: first and last time of the grid, by default 1 and 0. A model of the noise starts at ``schedule.t_max``
        where there is nothing but noise at 1 (cosine), and inversion begins at ``schedule.t_min`` for a model of the
        data, or with a threshold.
    final: "zero" to end at ``end``, "minimum" to end at the schedule's smallest time of finite log-SNR.
    inverse: run the grid backwards, from data to noise; the result is the unit noise that a run from there starts from,
        the sample divided by its sigma.
    threshold: clamp each prediction of x0 to this number, or a solvers.Threshold for dynamic thresholding.

Raises ValueError for steps, times, names or options that do not fit."""


def _plain(value):
    """An option as it can be kept in a file."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return getattr(value, "__name__", type(value).__name__)


def from_name(name: str) -> Callable[..., Plan]:
    """The solver called ``name``; ValueError with the nearest name when there is none."""
    return look_up("solver", name, SOLVERS)


def make_plan(name: str, schedule: Schedule, steps: int, **options) -> Plan:
    """The Plan of the solver ``name``; options that are None are left to the solver.

    Raises ValueError, with the nearest name where there is one, for a solver or an option that is not there, and for a
    solver that has no table because it chooses its steps while it runs.
    """
    make = from_name(name)
    if not hasattr(make, "function"):
        raise ValueError(
            f"{name} chooses its steps while it runs, so there is no table of it; use it from Python: "
            f"solvers.{name}(schedule, ...).sample(denoiser, noise)"
        )
    given = {key: value for key, value in options.items() if value is not None}
    known = {key: key for key in inspect.signature(make).parameters if key not in ("schedule", "steps", "times")}
    for key in given:
        look_up(f"option of {name}", key, known)
    return make(schedule, steps, **given)


def solver_function(name: str) -> Callable:
    """The function over a Builder that the solver called ``name`` was made of."""
    make = from_name(name)
    if not hasattr(make, "function"):
        raise ValueError(f"{name} chooses its steps while it runs: it is no table")
    return make.function
