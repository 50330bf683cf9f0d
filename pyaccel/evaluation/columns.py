"""The columns of every report: their titles, units and directions, and what a reader should know of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, object]


@dataclass(frozen=True)
class Column:
    """``better`` is "smaller", "larger" or ""; ``text`` writes a value; ``relative`` asks for the baseline's ratio.

    ``short`` is the title where room is scarce."""

    key: str
    title: str
    short: str
    better: str
    text: Callable[[float], str]
    relative: bool
    explanation: str

    def value(self, row: Row) -> float | None:
        """The row's value, None where it is missing, not a number, or infinite."""
        value = row.get(self.key)
        if value is None or isinstance(value, (bool, str)):
            return None
        value = float(value)  # type: ignore[arg-type]
        return value if math.isfinite(value) else None

    def cell(self, row: Row) -> str:
        """The value as the tables show it, "–" where there is none."""
        value = self.value(row)
        return "–" if value is None else self.text(value)

    def ratio(self, row: Row, baseline: Row) -> float | None:
        """The row's value over the baseline's, where that says something."""
        value, base = self.value(row), self.value(baseline)
        return None if not self.relative or value is None or not base else value / base

    def best(self, rows: Sequence[Row]) -> str | None:
        """The best value as text, so that all rows that show it are marked; None when nothing can be compared."""
        values = [value for value in map(self.value, rows) if value is not None]
        if not self.better or len(values) < 2:
            return None
        return self.text(min(values) if self.better == "smaller" else max(values))


def seconds(value: float) -> str:
    """Three digits or so: 0.042, 1.57, 24.3, 183."""
    return (
        f"{value:.3f}"
        if value < 0.1
        else f"{value:.2f}"
        if value < 10
        else f"{value:.1f}"
        if value < 100
        else f"{value:.0f}"
    )


def speedup(value: float) -> str:
    """6.3× or 14×."""
    return f"{value:.1f}×" if value < 99.95 else f"{value:.0f}×"


def _count(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


COLUMNS = (
    Column(
        "model_calls", "Model calls", "Calls", "smaller", _count, False,
        "How often the network was asked per sample, whether it computed everything or took parts from the cache.",
    ),
    Column(
        "full_calls", "Full calls", "Full", "smaller", _count, False,
        "The calls among them that computed the whole network. Without a cache all calls are full; "
        "a fair rival of a cache makes as many full calls without one.",
    ),
    Column(
        "seconds", "Seconds", "Sec.", "smaller", seconds, False,
        "Wall time for all samples of the row on the machine named above, measured after a warm-up.",
    ),
    Column(
        "speedup", "Speed-up", "Speed", "larger", speedup, False,
        "The baseline's seconds divided by the row's.",
    ),
    Column(
        "fid", "FID", "FID", "smaller", lambda v: f"{v:.2f}" if v < 100 else f"{v:.0f}", True,
        "Quality and diversity in one: the Fréchet distance between samples and real images in the features of a small "
        "classifier (not Inception, so compare it only within this report). 0 would be the real distribution.",
    ),
    Column(
        "precision", "Precision", "Prec.", "larger", lambda v: f"{v:.3f}", True,
        "Quality: the share of samples that look like real images, i.e. fall among the nearest neighbours of one.",
    ),
    Column(
        "recall", "Recall", "Recall", "larger", lambda v: f"{v:.3f}", True,
        "Diversity: the share of real images that fall among the nearest neighbours of a sample.",
    ),
    Column(
        "accuracy", "Class accuracy", "Class", "larger", lambda v: f"{100 * v:.1f} %", True,
        "Obedience: the share of samples that the classifier takes for the class that was asked for.",
    ),
    Column(
        "rmse", "RMSE", "RMSE", "smaller", lambda v: f"{v:.4f}", True,
        "Trajectory error: the root mean square difference, per pixel in [−1, 1], to the solution of the same ODE from "
        "the same noise with 200 steps. 0 would be the exact solution.",
    ),
)  # fmt: skip
BY_KEY = {column.key: column for column in COLUMNS}


def family(row: Row, baseline: bool = False) -> str:
    """ "baseline", "caching" (fewer full calls than calls) or "few steps"; a row may name its own ``family``."""
    if baseline or row.get("family"):
        return "baseline" if baseline else str(row["family"])
    calls, full = BY_KEY["model_calls"].value(row), BY_KEY["full_calls"].value(row)
    return "caching" if calls is not None and full is not None and full < calls else "few steps"


def baseline_of(results: Mapping) -> Row:
    """The row that all ratios are to: the one called ``results["baseline"]``, or else the first.

    Raises ValueError when no row has that name.
    """
    rows, name = checked(results), results.get("baseline")
    if name is None:
        return rows[0]
    for row in rows:
        if row["name"] == name:
            return row
    raise ValueError(f"the baseline {name!r} is none of the rows {[row['name'] for row in rows]}")


def checked(results: Mapping) -> Sequence[Row]:
    """The rows of ``results``; ValueError when there are none or one has no name."""
    rows = results.get("rows")
    if not rows:
        raise ValueError("a report needs results['rows'] with at least one row, the baseline first")
    for place, row in enumerate(rows):
        if not isinstance(row.get("name"), str) or not row["name"]:
            raise ValueError(f"row {place} of the results has no name: {dict(row)}")
    return rows
