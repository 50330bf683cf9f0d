"""The picture of the students' bench: FID against model calls, a line for each method."""

from __future__ import annotations

import os
from collections.abc import Mapping

from matplotlib.ticker import FuncFormatter, NullFormatter

from ..columns import BY_KEY
from ..figures import MARKERS, THEMES, Theme, new_figure, pareto_front, plain_axes, save_figure
from ..labels import label_ends


def calls_figure(path: str | os.PathLike, results: Mapping, theme: str = "light") -> None:
    """Writes a PNG: FID with its interval against full model calls, both logarithmic.

    The teacher's solvers are grey and its trained ones blue; each student has a colour, which its rows with a tuned
    plan or a cache share. The band joins the rows that no other one beats in both.
    """
    colours, fid, full = THEMES[theme], BY_KEY["fid"], BY_KEY["full_calls"]
    rows = [row for row in results["rows"] if (fid.value(row) or 0) > 0 and full.value(row)]
    figure = new_figure(12.2, 7.6, colours)
    axes = figure.add_axes((0.07, 0.11, 0.68, 0.82), facecolor=colours.paper)
    axes.set(xscale="log", yscale="log")
    points = [(full.value(row), fid.value(row)) for row in rows]
    front = [points[i] for i in pareto_front([(-x, y) for x, y in points])]
    band = {"color": colours.faint, "linewidth": 7, "alpha": 0.25, "solid_capstyle": "round"}
    axes.plot(*zip(*front, strict=True), zorder=2, **band)
    ends = []
    for line, colour in _colours(rows, colours).items():
        of_line = sorted((row for row in rows if row["line"] == line), key=full.value)
        joined = [row for row in of_line if row["family"] in ("few steps", "trained solvers", "students")]
        axes.plot(
            [full.value(r) for r in joined], [fid.value(r) for r in joined], color=colour, linewidth=1.4, zorder=3
        )
        for row in of_line:
            _point(axes, row, colour, colours)
        last = max(joined or of_line, key=full.value)
        ends.append((line, (full.value(last), fid.value(last)), colour, last["family"] != "few steps"))
    for name in dict.fromkeys(row["family"] for row in rows):
        axes.plot([], [], MARKERS[name], color=colours.faint, markersize=7, label=name)
    axes.plot([], [], label="Pareto front", **band)
    plain_axes(axes, colours)
    axes.set_xlabel("full model calls", color=colours.faint, fontsize=10)
    axes.set_ylabel("FID to the real images, smaller is better", color=colours.faint, fontsize=10)
    ticks = sorted({x for x, _ in points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else ""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, labelcolor=colours.text, fontsize=9, loc="best")
    label_ends(axes, ends)
    save_figure(figure, path, colours)


def _point(axes, row: Mapping, colour: str, colours: Theme) -> None:
    x, y = BY_KEY["full_calls"].value(row), BY_KEY["fid"].value(row)
    low, high = row.get("interval") or (y, y)
    bars = [[max(0.0, y - low)], [max(0.0, high - y)]]
    axes.errorbar(x, y, yerr=bars, fmt=MARKERS[row["family"]], color=colour, markersize=7.5, elinewidth=1.2, capsize=2,
                  markeredgecolor=colours.paper, markeredgewidth=0.8, zorder=4)  # fmt: skip


def _colours(rows, colours: Theme) -> dict[str, str]:
    """A colour for each line."""
    found, students, others = {}, 0, colours.best[1:]
    for row in rows:
        if row["line"] in found:
            continue
        if row["family"].startswith("students"):
            found[row["line"]] = others[students % len(others)]
            students += 1
        else:
            known = {"baseline": colours.text, "trained solvers": colours.few_steps}
            found[row["line"]] = known.get(row["family"], colours.faint)
    return found
