"""A heat map: one row for each name, one column for each step, darker for more."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from .figures import THEMES, new_figure, save_figure


def heat_map(
    path: str | os.PathLike,
    values: Sequence[Sequence[float]],
    names: Sequence[str],
    title: str,
    theme: str = "light",
) -> None:
    """Writes a PNG of ``values`` [rows][steps] ≥ 0, with a scale beside it.

    Of more than 60 rows only every n-th name is written. Raises ValueError where names and rows do not fit.
    """
    if len(values) != len(names) or not len(values):
        raise ValueError(f"{len(values)} rows of values and {len(names)} names; expected as many, and at least one")
    colours, array = THEMES[theme], np.array(values, dtype=float)
    height = min(14.0, 1.3 + 0.24 * len(names))
    figure = new_figure(11.5, height, colours)
    axes = figure.add_axes((0.26, 0.55 / height, 0.64, 1 - 1.1 / height), facecolor=colours.paper)
    image = axes.imshow(array, aspect="auto", cmap="viridis_r" if theme == "light" else "viridis", vmin=0)
    axes.set_title(title, loc="left", color=colours.text, fontsize=11, weight="bold", pad=10)
    stride = -(-len(names) // 60)
    axes.set_yticks(range(0, len(names), stride), list(names)[::stride])
    axes.set_xlabel("step", color=colours.faint, fontsize=9)
    axes.tick_params(colors=colours.faint, labelsize=8, length=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.015)
    bar.ax.tick_params(colors=colours.faint, labelsize=8)
    for side in (*axes.spines.values(), bar.outline):
        side.set_visible(False)
    save_figure(figure, path, colours)
