"""The bench's picture: error against model calls, a line for each solver."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from matplotlib.ticker import NullFormatter

from ..figures import THEMES, new_figure, plain_axes, save_figure
from ..labels import label_ends
from .claims import ranking


def error_figure(
    path: str | os.PathLike, calls: Sequence[int], rows: Sequence[Mapping], title: str, theme: str = "light"
) -> None:
    """Writes a PNG: RMSE against the calls that were made, both logarithmic, each line labelled at its right end.

    The six solvers that are best over all numbers of calls are in colour, DDIM is dashed, the rest is grey. A solver
    that gives the same samples as another shares its line and its label.
    """
    colours = THEMES[theme]
    ranked = [row for row in ranking(calls, rows) if "note" not in row]
    twins = {row["name"]: [r["name"] for r in rows if r.get("note", "").endswith(f" {row['name']}")] for row in ranked}
    figure = new_figure(12.2, 8.2, colours)
    axes = figure.add_axes((0.07, 0.085, 0.63, 0.835), facecolor=colours.paper)
    axes.set_title(title, loc="left", color=colours.text, fontsize=12, weight="bold", pad=12)
    axes.set(xscale="log", yscale="log")
    least = min(calls)
    lines, ends = [row for row in ranked if _points(row, least)], []
    for place, row in reversed(list(enumerate(lines))):
        points = _points(row, least)
        if row["name"] == "DDIM":
            style = {"color": colours.text, "linestyle": (0, (5, 2)), "linewidth": 1.8, "zorder": 4}
        elif place < len(colours.best):
            style = {"color": colours.best[place], "linewidth": 2.2, "zorder": 5}
        else:
            style = {"color": colours.faint, "linewidth": 1.0, "alpha": 0.55, "zorder": 3}
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4.5, **style)
        text = " = ".join([row["name"], *twins[row["name"]]])
        ends.append((text, points[-1], style["color"], place < len(colours.best) or row["name"] == "DDIM"))
    _decorate(axes, calls, colours)
    label_ends(axes, ends)
    save_figure(figure, path, colours)


def _points(row: Mapping, least: int) -> list[tuple[int, float]]:
    """(calls, RMSE), once for each number of calls that was made, from ``least`` on."""
    pairs = zip(row["calls"], row["rmse"], strict=True)
    return sorted({made: error for made, error in pairs if made and made >= least and error}.items())


def _decorate(axes, calls: Sequence[int], colours) -> None:
    plain_axes(axes, colours)
    axes.set_xlabel("model calls", color=colours.faint, fontsize=10)
    axes.set_ylabel("RMSE to the exact solution, per pixel in [−1, 1]", color=colours.faint, fontsize=10)
    axes.set_xticks(list(calls), [str(budget) for budget in calls])
    axes.set_xlim(min(calls) * 0.93, max(calls) * 1.02)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    ticks = [m * 10.0**e for e in range(-7, 3) for m in (1, 2, 5)]
    axes.set_yticks([t for t in ticks if low <= t <= high], [f"{t:g}" for t in ticks if low <= t <= high])
    axes.set_ylim(low, high)
