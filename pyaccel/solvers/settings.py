"""What a user asks of a solver, checked: times, prediction, threshold, options."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import time_grids
from ..schedules import Schedule
from .plan import Threshold

COMMON = (
    "steps", "times", "prediction", "lower_order_final", "grid", "start", "end", "final", "inverse", "threshold",
)  # fmt: skip
"""The options that every solver has."""

_NATURAL_PREDICTION = {"flow": "flow", "edm": "sample", "ve": "sample"}
_NATURAL_GRID = {"edm": "karras"}  # equal steps in its time would be equal steps in sigma, up to 80


def natural_prediction(schedule: Schedule) -> str:
    """What most models of this schedule predict."""
    if schedule.name == "vp_discrete" and schedule.alpha(1.0) == 0:
        return "v"  # from pure noise the noise says nothing (Lin et al. 2023, arXiv 2305.08891, section 3.2)
    return _NATURAL_PREDICTION.get(schedule.name, "epsilon")


def natural_grid(schedule: Schedule) -> str:
    """The time grid that most samplers take for this schedule."""
    return _NATURAL_GRID.get(schedule.name, "uniform")


def chosen_times(
    name: str,
    schedule: Schedule,
    steps: int,
    *,
    grid: str | time_grids.Grid | Sequence[float] | None,
    default: str | time_grids.Grid | None,
    start: float,
    end: float,
    final: str,
    intervals: Callable[[int, int], int] | None,
) -> list[float]:
    """The times of a grid with ``steps`` steps, falling."""
    steps = whole(name, "steps", steps, least=1)
    if intervals is not None:
        steps = intervals(steps, (schedule.alpha(start) == 0) + (final == "zero" and schedule.sigma(end) == 0))
    default = default or natural_grid(schedule)
    if isinstance(grid, (list, tuple)):
        grid = time_grids.some_of(grid, time_grids.GRIDS[default] if isinstance(default, str) else default)
    return time_grids.make(schedule, steps, grid or default, start, end, final)


def given_times(name: str, times: Sequence[float], inverse: bool, beside: Mapping[str, Any]) -> list[float]:
    """Times that the user gave, falling or rising; ValueError for other settings of the grid ``beside`` them."""
    ignored = [key for key, value in beside.items() if value is not None]
    if ignored:
        raise ValueError(f"{name}: {', '.join(ignored)} cannot be given beside times=")
    try:
        times = [float(t) for t in times]
    except (TypeError, ValueError):
        raise TypeError(f"{name}: times must be a list of numbers, got {times!r}") from None
    rising = len(times) > 1 and times[-1] > times[0]
    times = time_grids.check(times, rising=rising)
    return times[::-1] if inverse and not rising else times


def checked_threshold(name: str, given: float | Threshold | None) -> Threshold | None:
    """The Threshold that was meant."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float, Threshold)):
        raise TypeError(f"{name}: threshold must be a number or a solvers.Threshold, got {given!r}")
    threshold = given if isinstance(given, Threshold) else Threshold(float(given))
    if not (threshold.limit > 0 and 0 <= threshold.ratio < 1):
        raise ValueError(f"{name}: a threshold needs limit > 0 and 0 <= ratio < 1, got {threshold}")
    return threshold


def check_options(name: str, function: Callable, options: Mapping[str, Any]) -> None:
    """ValueError unless ``function(b, ...)``, the solver called ``name``, has all of ``options``."""
    known = list(inspect.signature(function).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join([*known, *COMMON])}")


def option(solver_name: str, name: str, value, allowed: Sequence) -> None:
    """ValueError unless ``value`` is one of ``allowed``."""
    if isinstance(value, (bool, float)) or value not in allowed:
        raise ValueError(f"{solver_name}: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def whole(solver_name: str, name: str, value, least: int = 0) -> int:
    """``value`` as an int; ValueError unless it is a whole number of at least ``least``."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{solver_name}: {name} must be a whole number of at least {least}, got {value!r}")
    return number


def not_negative(solver_name: str, **values) -> None:
    """ValueError unless each of the named values is a finite number from 0 on."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise ValueError(f"{solver_name}: {name} must be a number from 0 on, got {value!r}")
