"""The bench's files: results.json, a picture for each model, and one HTML page with all inside."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from html import escape
from pathlib import Path

from ...files import write_atomically
from ..document import document, facts_line, figure
from ..figures import THEMES
from .claims import opening, ranking, verdicts
from .figure import error_figure
from .table import html_table

_HINT = (
    "Root mean square difference per pixel, whose range is [−1, 1], to the solution of the same ODE from the same "
    "noise and labels, before values are clamped to that range. Every solver makes as many steps as the calls allow; "
    "small print: where that leaves some of them over. Marked: the best of the column. The solvers are in the order of "
    "their mean distance to the best."
)
_CAUTION = (
    "The papers compare mostly FID on large models, here it is the distance to the exact solution on a small one: a "
    "solver's ranking depends on the model, its schedule and the time grid, and a claim that does not hold here may "
    "well hold where it was made. Errors within 2 % of each other count as equal."
)


def write_json(folder: Path, results: Mapping) -> None:
    """Writes results.json atomically."""
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / "results.json", lambda path: path.write_text(text) and None)


def write_report(folder: Path, results: Mapping) -> Path:
    """Writes results.json, rmse-MODEL.png for each model, and report.html; returns the path of the page."""
    calls, pictures = results["calls"], {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, entry in results["models"].items():
            pictures[name] = {}
            for theme in THEMES:
                path = Path(scratch, f"{theme}.png")
                error_figure(path, calls, entry["rows"], _title(name, entry), theme)
                pictures[name][theme] = path.read_bytes()
    write_json(folder, results)
    for name, themes in pictures.items():
        write_atomically(folder / f"rmse-{name}.png", lambda path, png=themes["light"]: path.write_bytes(png) and None)
    encoded = {n: {t: base64.b64encode(png).decode() for t, png in themes.items()} for n, themes in pictures.items()}
    html = page(results, encoded)
    write_atomically(folder / "report.html", lambda path: path.write_text(html) and None)
    return folder / "report.html"


def page(results: Mapping, pictures: Mapping[str, Mapping[str, str]]) -> str:
    """The page as text; ``pictures`` maps each model to {"light": base64 PNG, "dark": …}."""
    calls, parts = results["calls"], [facts_line(results)]
    for name, entry in results["models"].items():
        rows = entry["rows"]
        judged = "".join(
            f"<dt>{escape(v.word)}</dt><dd><b>{escape(v.claim)}</b><br>{escape(v.detail)}</dd>"
            for v in verdicts(calls, rows)
        )
        parts += [
            f"<h2>{escape(_title(name, entry))}</h2>",
            f'<p class="lead">{escape(opening(calls, rows))}</p>',
            figure("Error against model calls", "In colour: the best over all numbers of calls.", pictures.get(name),
                   f"RMSE of every solver against its model calls on {name}"),
            f'<h2>All solvers</h2><p class="hint">{escape(_HINT)}</p>',
            f'<div class="card scroll">{html_table(calls, ranking(calls, rows))}</div>',
            f'<h2>What the papers say</h2><p class="hint">{escape(_CAUTION)}</p><dl>{judged}</dl>',
        ]  # fmt: skip
    return document(results["title"], parts)


def _title(name: str, entry: Mapping) -> str:
    return f"{name}: {entry['prediction']} prediction on {entry['schedule']['name']}"
