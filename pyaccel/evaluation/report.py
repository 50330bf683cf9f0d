"""The report of a comparison: results.json, two pictures, one HTML page with all inside, a terminal table."""

from __future__ import annotations

import base64
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..files import write_atomically
from .columns import BY_KEY, COLUMNS, Row, baseline_of, checked, seconds, speedup
from .document import figure
from .figures import THEMES, pareto_figure, samples_figure
from .page import page

FID_SLACK, ACCURACY_SLACK = 1.1, 0.02  # what still passes for the baseline's quality in the opening sentence


@dataclass(frozen=True)
class Drawing:
    """A picture of a report of its own: ``draw(path, theme)`` writes it; the texts are those around it."""

    name: str
    title: str
    hint: str
    alternative: str
    draw: Callable[[Path, str], None]


def write_report(
    folder: str | os.PathLike,
    results: Mapping,
    samples: Mapping[str, torch.Tensor],
    more: Sequence[Drawing] = (),
) -> Path:
    """Writes results.json, samples.png, pareto.png and report.html into ``folder``; returns the path of the page.

    ``results`` is {"title", "machine", "settings": {…}, "rows": [{"name", "model_calls", "full_calls", "seconds",
    "speedup", "fid", "precision", "recall", "accuracy", "rmse", optionally "note" and "family"}, …], optionally
    "baseline": the name of its row, otherwise the first, and "explanations" of columns that mean something else here};
    values may be missing, None or NaN (null in the JSON).
    ``samples`` maps a row's name to samples [M, 1 or 3, H, W] in [−1, 1], of the same noise and labels in every row;
    rows without samples are not drawn. ``more`` are further pictures, which come first on the page.

    Each file is replaced as a whole: an interruption leaves old files or new ones, never half of one. Raises ValueError
    for results without rows and for samples of an unknown name.
    """
    rows, baseline = checked(results), baseline_of(results)
    unknown = sorted(set(samples) - {row["name"] for row in rows})
    if unknown:
        raise ValueError(
            f"samples of {', '.join(unknown)} belong to no row; the rows are {[row['name'] for row in rows]}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        (row["name"], BY_KEY["speedup"].value(row), samples[row["name"]]) for row in rows if row["name"] in samples
    ]
    with tempfile.TemporaryDirectory() as scratch:
        pictures: dict[str, dict[str, bytes]] = {"samples": {}, "pareto": {}}
        for theme in THEMES:
            path = Path(scratch, f"{theme}.png")
            pareto_figure(path, results, theme=theme)
            pictures["pareto"][theme] = path.read_bytes()
            if drawn:
                samples_figure(path, drawn, theme=theme, baseline=baseline["name"])
                pictures["samples"][theme] = path.read_bytes()
            for drawing in more:
                drawing.draw(path, theme)
                pictures.setdefault(drawing.name, {})[theme] = path.read_bytes()
    for name, themes in pictures.items():
        if themes:
            _write(folder / f"{name}.png", themes["light"])
    encoded = {
        name: {theme: base64.b64encode(png).decode() for theme, png in themes.items()}
        for name, themes in pictures.items()
    }
    write_results(folder, results)
    drawings = [figure(f.title, f.hint, encoded[f.name], f.alternative) for f in more]
    _write(folder / "report.html", page(results, rows, opening(results), encoded, drawings).encode())
    return folder / "report.html"


def write_results(folder: Path, results: Mapping) -> None:
    """Writes results.json into ``folder``, atomically; NaN and infinity are null there."""
    text = json.dumps(_plain(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _write(Path(folder) / "results.json", text.encode())


def best_row(results: Mapping) -> Row | None:
    """The fastest row of the baseline's quality: FID at most 10 % above, class accuracy at most 2 points below it."""
    baseline = baseline_of(results)
    others = [row for row in checked(results) if row is not baseline]
    fid, accuracy, speed = BY_KEY["fid"], BY_KEY["accuracy"], BY_KEY["speedup"]

    def equal(row: Row) -> bool:
        values = fid.value(row), fid.value(baseline), speed.value(row)
        if None in values or values[0] > FID_SLACK * values[1] or values[2] <= 1:
            return False
        own, base = accuracy.value(row), accuracy.value(baseline)
        return own is None or base is None or own >= base - ACCURACY_SLACK

    return max(filter(equal, others), key=speed.value, default=None)


def opening(results: Mapping) -> str:
    """Two sentences: what was gained, and how to read the pictures. Plain text."""
    baseline, best = baseline_of(results), best_row(results)
    fid = BY_KEY["fid"]
    if best is None:
        first = f"No faster method here keeps within 10 % of the FID of {baseline['name']}, {fid.cell(baseline)}"
        rivals = [row for row in results["rows"] if row is not baseline and fid.value(row) is not None]
        if rivals:
            nearest = min(rivals, key=fid.value)
            speed = BY_KEY["speedup"].cell(nearest)
            first += f"; the nearest is {nearest['name']} with {fid.cell(nearest)} at {speed} the speed"
        first += "."
    else:
        taken, before = BY_KEY["seconds"].value(best), BY_KEY["seconds"].value(baseline)
        times = f" ({seconds(taken)} s instead of {seconds(before)} s)" if taken and before else ""
        first = (
            f"{best['name']} samples {speedup(BY_KEY['speedup'].value(best))} as fast as {baseline['name']}{times} "
            f"at comparable quality: FID {fid.cell(best)} against {fid.cell(baseline)}."
        )
    return first + (
        " Every row starts from the same noise and the same labels, so the pictures in one column differ only by how "
        "they were computed."
    )


def rich_table(results: Mapping) -> Table:
    """The rows as a table for the terminal, the best value of each column in green."""
    rows, baseline = checked(results), baseline_of(results)
    title = results.get("title")
    heading = Text(str(title), style="bold") if title else None
    table = Table(title=heading, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=0)
    table.add_column("Method", overflow="fold", min_width=12)
    arrows = {"smaller": "↓", "larger": "↑", "": ""}
    for column in COLUMNS:
        table.add_column(column.short + arrows[column.better], justify="right", no_wrap=True)
    best = {column.key: column.best(rows) for column in COLUMNS}
    for row in rows:
        plain = "dim" if row is baseline else ""
        cells = [Text(row["name"], style=plain)]
        for column in COLUMNS:
            cell = column.cell(row)
            cells.append(Text(cell, style="bold green" if cell == best[column.key] else plain))
        table.add_row(*cells)
    return table


def _plain(value):
    """The value as JSON has it: NaN and infinity as null, tensors and paths as numbers and text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if hasattr(value, "tolist"):  # tensors and numpy numbers
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(content) and None)
