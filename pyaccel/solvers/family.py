"""What all solvers share: from a function over a Builder to a function that returns a Plan, and their register."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import predictions, time_grids
from ..names import look_up
from ..schedules import Schedule
from .builder import Builder
from .plan import Plan, Threshold

SOLVERS: dict[str, Callable[..., Plan]] = {}

NATURAL_PREDICTION = {"flow": "flow", "edm": "sample", "ve": "sample"}
_NATURAL_GRID = {"edm": "karras"}  # equal steps in its time would be equal steps in sigma, up to 80


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
    intervals: Callable[[int, bool], int] | None = None,
) -> Callable:
    """Turns ``function(b, **options) -> Value`` into ``NAME(schedule, steps=N, ...) -> Plan`` and registers it.

    Args:
        paper, order, calls, stochastic, students: what :class:`About` says.
        grid: the default time grid; without one Karras' for edm, otherwise uniform.
        finite: whether the solver needs a finite log-SNR at its first time; it then starts at ``schedule.t_max`` where
            pure noise has none.
        lowers: whether ``lower_order_final`` is set unless the user says otherwise.
        intervals: intervals of the grid for a number of ``steps``, where they differ; also told whether the last one
            leads to sigma = 0.
    """
    if function is None:
        return functools.partial(
            solver, paper=paper, order=order, calls=calls, stochastic=stochastic, students=students, grid=grid,
            finite=finite, lowers=lowers, intervals=intervals,
        )  # fmt: skip
    name, default_grid = function.__name__, grid
    known = list(inspect.signature(function).parameters.values())[1:]
    named = [p for p in known if p.kind is not inspect.Parameter.VAR_KEYWORD]
    open_ended = len(named) < len(known)

    @functools.wraps(function)
    def make(
        schedule: Schedule,
        steps: int | None = None,
        *,
        times: Sequence[float] | None = None,
        prediction: str | None = None,
        lower_order_final: bool = lowers,
        grid: str | time_grids.Grid | None = default_grid,
        start: float | None = None,
        end: float = 0.0,
        final: str = "zero",
        inverse: bool = False,
        threshold: float | Threshold | None = None,
        **options,
    ) -> Plan:
        if not isinstance(schedule, Schedule):
            raise TypeError(
                f"{name}: schedule must be a pyaccel Schedule such as flow(), got {type(schedule).__name__}"
            )
        unknown = set(options) - {p.name for p in named}
        if unknown and not open_ended:
            raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}; it has {_option_names(named)}")
        if (steps is None) == (times is None):
            raise ValueError(f"{name}: give either steps=N or times=[N + 1 monotone times], got {steps=} and {times=}")
        if times is None:
            if start is None:
                start = schedule.t_max if finite and schedule.alpha(1.0) == 0 else 1.0
            if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
                raise ValueError(f"{name}: steps must be a whole number of at least 1, got {steps!r}")
            count = steps if intervals is None else intervals(steps, final == "zero" and schedule.sigma(end) == 0)
            grid = grid or _NATURAL_GRID.get(schedule.name, "uniform")
            times = time_grids.make(schedule, count, grid, start, end, final)
            times = times[::-1] if inverse else times
        rising = len(times) > 1 and times[-1] > times[0]
        times = time_grids.check(times, rising=rising)
        if rising and stochastic:
            raise ValueError(f"{name}: the times rise from data to noise, and no noise can be added on that way")
        if not rising and schedule.sigma(times[0]) == 0:
            raise ValueError(f"{name}: there is no noise at the first time {times[0]}")
        if finite and schedule.alpha(times[0]) == 0:
            raise ValueError(
                f"{name} needs a finite log-SNR, and at the first time {times[0]} of {schedule.name} there is nothing "
                f"but noise; start at {schedule.t_max:.4g}"
            )
        prediction = predictions.check(prediction or NATURAL_PREDICTION.get(schedule.name, "epsilon"))
        b = Builder(schedule, times, prediction, lower_order_final, _threshold(name, threshold), steps)
        defaults = {p.name: p.default for p in named}
        chosen = {**defaults, **options, "lower_order_final": bool(lower_order_final)}
        return b.plan(function(b, **options), solver=name, options={k: _plain(v) for k, v in chosen.items()})

    make.__signature__ = inspect.signature(make).replace(
        parameters=[
            *list(inspect.signature(make, follow_wrapped=False).parameters.values())[:-1],
            *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in named),
            *(p for p in known if p not in named),
        ]
    )
    text = inspect.cleandoc(function.__doc__ or f"{name}.")
    make.__doc__ = f"{text}\n\n{_COMMON}"
    summary = text.splitlines()[0].rstrip(".")
    make.about = About(name, summary, paper, order, calls, stochastic, students, tuple(p.name for p in named))
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
        edm and uniform otherwise.
    start, end: first and last time of the grid.
    final: "zero" to end at ``end``, "minimum" to end at the schedule's smallest time of finite log-SNR.
    inverse: run the grid backwards, from data to noise.
    threshold: clamp each prediction of x0 to this number, or a solvers.Threshold for dynamic thresholding.

Raises ValueError for steps, times, names or options that do not fit."""


def _threshold(name: str, given: float | Threshold | None) -> Threshold | None:
    if given is None:
        return None
    threshold = given if isinstance(given, Threshold) else Threshold(float(given))
    if not (threshold.limit > 0 and 0 <= threshold.ratio < 1):
        raise ValueError(f"{name}: a threshold needs limit > 0 and 0 <= ratio < 1, got {threshold}")
    return threshold


def _plain(value):
    """An option as it can be kept in a file."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return getattr(value, "__name__", type(value).__name__)


def _option_names(parameters) -> str:
    common = [
        "steps", "times", "prediction", "lower_order_final", "grid", "start", "end", "final", "inverse", "threshold",
    ]  # fmt: skip
    return ", ".join([*(p.name for p in parameters), *common])


def option(solver_name: str, name: str, value, allowed: Sequence) -> None:
    """ValueError unless ``value`` is one of ``allowed``."""
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(f"{solver_name}: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def from_name(name: str) -> Callable[..., Plan]:
    """The solver called ``name``; ValueError with the nearest name when there is none."""
    return look_up("solver", name, SOLVERS)


def solver_function(name: str) -> Callable:
    """The function over a Builder that the solver called ``name`` was made of."""
    return from_name(name).function
