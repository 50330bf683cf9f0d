"""Time grids: the N + 1 times, falling from noise to data, between which a solver with N steps moves.

Each grid is a function ``(schedule, steps, start, end, **options) -> list of steps + 1 floats``; for one with other
options than its defaults, hand ``functools.partial(karras, rho=5)`` on. Where a spacing needs a finite log-SNR and the
schedule has none at its ends, points are spaced between ``schedule.t_max`` and ``schedule.t_min``, the first is moved
to ``start``, and a last step leads from there to ``end``. "Ratio" is sigma/alpha, which most papers call sigma.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from .beta_distribution import beta_quantile
from .names import look_up
from .schedules import Schedule

Grid = Callable[..., list[float]]


def uniform(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    """Equal steps in t."""
    return np.linspace(start, end, steps + 1).tolist()


def quadratic(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    """Equal steps in √t: denser towards the data (Song et al. 2021, DDIM, appendix D.2)."""
    inner = np.linspace(math.sqrt(start), math.sqrt(end), steps + 1)[1:-1] ** 2
    return [start, *inner.tolist(), end]


def log_snr(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    """Equal steps in log-SNR, which are equal steps in log(sigma/alpha) (Lu et al. 2022, DPM-Solver, section 3.4)."""
    return _spaced(schedule, steps, start, end, schedule.lam, schedule.time_of_lam)


exponential = log_snr
"""The same under the name that k-diffusion and diffusers give it: an exponential fall of sigma/alpha."""


def karras(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0, rho: float = 7.0) -> list[float]:
    """Equal steps in (sigma/alpha)^(1/rho) (Karras et al. 2022, eq. 5)."""
    if not rho > 0:
        raise ValueError(f"karras: rho must be positive, got {rho!r}")
    return _spaced(
        schedule,
        steps,
        start,
        end,
        lambda t: math.exp(-schedule.lam(t) / rho),
        lambda u: schedule.time_of_lam(-rho * np.log(u)),
    )


def beta(
    schedule: Schedule,
    steps: int,
    start: float = 1.0,
    end: float = 0.0,
    a: float = 0.6,
    b: float = 0.6,
    over: str = "time",
) -> list[float]:
    """Quantiles of the Beta(a, b) distribution, dense at both ends for a, b < 1 (Lee et al. 2024, arXiv 2407.12173).

    The i-th of N + 1 points lies at the quantile of 1 − i/N on the way from ``end`` to ``start``: in t, as the paper
    has it, or with ``over="ratio"`` in sigma/alpha, as in diffusers' ``use_beta_sigmas``.
    """
    if over not in ("time", "ratio"):
        raise ValueError(f"beta: over must be 'time' or 'ratio', got {over!r}")

    def fractions(count: int) -> np.ndarray:
        return 1 - beta_quantile(1 - np.linspace(0, 1, count), a, b)

    if over == "ratio":
        return _spaced(schedule, steps, start, end, schedule.ratio, schedule.time_of_ratio, fractions)
    inner = start + (end - start) * fractions(steps + 1)[1:-1]
    return [start, *inner.tolist(), end]


def trailing(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    """Every (M/N)-th of the M training steps, counted back from the last (Lin et al. 2023, arXiv 2305.08891, table 2).

    Network step n is the time (n + 1)/1000, or (n + 1)/len(betas) for a discrete schedule, so the network is only
    told whole steps. M counts the training steps between start and end; where start is none of them, the grid begins at
    the next below. The last step leads to ``end``. ValueError if N > M.
    """
    first, last, count = _training_steps("trailing", schedule, steps, start, end)
    n = np.round(np.arange(first - last, 0, -(first - last) / steps))[:steps] - 1
    return _times_of(n + last, count, end)


def leading(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0, steps_offset: int = 1) -> list[float]:
    """Every ⌊M/N⌋-th of the M training steps, counted from the first (Lin et al. 2023, arXiv 2305.08891, table 2).

    For models that were published with it: its first time lies *below* ``start`` (0.902 for ten steps), where there is
    less noise than the sample starts with. ``steps_offset`` is added to each step, as far as there is room for it
    below the last training step; the rest is as for :func:`trailing`.
    """
    first, last, count = _training_steps("leading", schedule, steps, start, end)
    if isinstance(steps_offset, bool) or not isinstance(steps_offset, int) or steps_offset < 0:
        raise ValueError(f"leading: steps_offset must be a whole number of at least 0, got {steps_offset!r}")
    n = np.arange(steps)[::-1] * ((first - last) // steps)
    return _times_of(n + min(steps_offset, first - last - 1 - int(n[0])) + last, count, end)


def linspace(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    """N training steps evenly from the last to the first, both included (Lin et al. 2023, arXiv 2305.08891, table 2).

    A single step starts at the last. The rest is as for :func:`trailing`.
    """
    first, last, count = _training_steps("linspace", schedule, steps, start, end)
    n = np.round(np.linspace(0, first - last - 1, steps))[::-1] if steps > 1 else np.array([first - last - 1])
    return _times_of(n + last, count, end)


def some_of(times: Sequence[float], otherwise: Grid) -> Grid:
    """A grid of as many of these times as there are steps, evenly chosen from the first on, none above ``start``.

    For students that were trained at a few times; for more steps than times it is the grid ``otherwise``.
    """

    def grid(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
        if steps > len(times):
            return otherwise(schedule, steps, start, end)
        return [*(min(float(times[i * len(times) // steps]), start) for i in range(steps)), end]

    return grid


ALIGN_YOUR_STEPS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""The ratios sigma/alpha that Sabour et al. published for ten steps of Stable Diffusion 1.5, XL and Video."""


def align_your_steps(
    schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0, model: str = "sd15"
) -> list[float]:
    """The published ten-step schedules of Align Your Steps (Sabour et al. 2024, arXiv 2404.14507).

    ``model`` is "sd15", "sdxl" or "svd": Stable Diffusion 1.5, XL or Video. Other numbers of steps interpolate linearly
    in log(sigma/alpha) against the step, as the authors recommend. The first ratio is replaced by that of ``start`` and
    the last by that of ``end``; with a start or end inside the table's range, that section of its curve is divided
    instead. ValueError if start to end lies outside the range.
    """
    curve = np.log(look_up("model of align_your_steps", model, ALIGN_YOUR_STEPS))
    places = np.linspace(0, 1, len(curve))
    at_start, at_end = -schedule.lam(start), -schedule.lam(end)
    # The tables are rounded to three digits after the point: their first ratio is that of start if so rounded.
    first = 0.0 if at_start > curve[0] - 1e-3 else float(np.interp(-at_start, -curve, places))
    last = float(np.interp(-at_end, -curve, places))
    if not first < last:
        raise ValueError(
            f"align_your_steps: sigma/alpha runs from {math.exp(at_start):.4g} at start={start} to "
            f"{math.exp(at_end):.4g} at end={end}, and the table of {model!r} from {math.exp(curve[0]):.4g} to "
            f"{math.exp(curve[-1]):.4g}: they do not overlap"
        )
    inner = np.interp(np.linspace(first, last, steps + 1)[1:-1], places, curve)
    return [start, *schedule.time_of_lam(-inner).tolist(), end]


def _spaced(
    schedule: Schedule,
    steps: int,
    start: float,
    end: float,
    to: Callable[[float], float],
    back: Callable[[np.ndarray], np.ndarray],
    fractions: Callable[[int], np.ndarray] = lambda count: np.linspace(0, 1, count),
) -> list[float]:
    """Equal steps in to(t), from start (or t_max, where log-SNR ends) to end (or t_min, and then one step more).

    ``fractions(count)`` are the shares of the way, from 0 to 1, where they are not equal.
    """
    first = start if math.isfinite(schedule.lam(start)) else min(start, schedule.t_max)
    extra = not math.isfinite(schedule.lam(end))
    last = max(end, schedule.t_min) if extra else end
    count = steps if extra else steps + 1
    if count == 1:
        return [start, end]
    if not last < first:
        raise ValueError(
            f"a grid spaced in log-SNR needs start above {last:.4g} (t_min of {schedule.name}), got start={start}"
        )
    way = to(first) + (to(last) - to(first)) * fractions(count)[1:-1]
    return [start, *back(way).tolist(), *([last, end] if extra else [end])]


def _training_steps(name: str, schedule: Schedule, steps: int, start: float, end: float) -> tuple[int, int, int]:
    """How many training steps have times up to start, up to end, and in all; ValueError if ``steps`` do not fit."""
    count = len(schedule.parameters.get("betas", range(1000)))
    first, last = (math.floor(t * count + 1e-9) for t in (start, end))
    if steps > first - last:
        raise ValueError(
            f"{name}: {steps} steps do not fit in the {first - last} training steps from {start} to {end}; "
            "use fewer, or a grid of times between them, such as uniform"
        )
    return first, last, count


def _times_of(n: np.ndarray, count: int, end: float) -> list[float]:
    return [*((n + 1) / count).tolist(), end]


GRIDS: dict[str, Grid] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "log_snr": log_snr,
    "exponential": exponential,
    "karras": karras,
    "beta": beta,
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
    "align_your_steps": align_your_steps,
}


def make(
    schedule: Schedule,
    steps: int,
    grid: str | Grid = "uniform",
    start: float = 1.0,
    end: float = 0.0,
    final: str = "zero",
) -> list[float]:
    """``steps`` + 1 checked times by a grid's name or by a function like the ones above.

    ``final="minimum"`` ends at ``schedule.t_min``, the smallest time of useful log-SNR, where ``end`` is below it:
    diffusers' ``final_sigmas_type="sigma_min"``. ValueError for steps, names or times that do not fit.
    """
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
    if final not in ("zero", "minimum"):
        raise ValueError(f"final must be 'zero' or 'minimum', got {final!r}")
    start, end = float(start), float(max(end, schedule.t_min) if final == "minimum" else end)
    if not 0 <= end < start <= 1:
        raise ValueError(f"need 0 <= end < start <= 1, got start={start} and end={end} ({final=})")
    if isinstance(grid, str):
        grid = look_up("grid", grid, GRIDS)
    elif not callable(grid):
        raise TypeError(f"grid must be a name ({', '.join(GRIDS)}) or a function like those, got {grid!r}")
    return check(grid(schedule, int(steps), start, end))


def check(times: Sequence[float], rising: bool = False) -> list[float]:
    """The times as floats; ValueError unless there are at least two, finite, within [0, 1], and falling strictly, or
    with ``rising`` rising strictly, as for inversion from data to noise."""
    times = [float(t) for t in times]
    if len(times) < 2:
        raise ValueError(f"times must hold at least two values (N steps need N + 1), got {times}")
    for i, t in enumerate(times):
        if not 0 <= t <= 1:
            raise ValueError(f"times must lie in [0, 1], from noise at 1 to data at 0; got {t} at position {i}")
    for i, (a, b) in enumerate(itertools.pairwise(times)):
        if not (a < b if rising else a > b):
            way = "rise strictly from data to noise" if rising else "fall strictly from noise to data"
            raise ValueError(f"times must {way}; got {a} followed by {b} at position {i + 1}")
    return times
