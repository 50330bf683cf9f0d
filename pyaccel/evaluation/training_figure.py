"""What training made of a plan: its times and its coefficients against those of the start, and the way there."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..solvers import Plan
from .figures import THEMES, new_figure, save_figure
from .plan_figure import _heat_map, weights


def training_figure(
    path: str | os.PathLike, start: Plan, trained: Plan, validations: Sequence[tuple[int, float]], theme: str = "light"
) -> None:
    """Writes a PNG: times, what the network is told, the weights of each step before and after, and the validation.

    ``validations`` are (step of the training, value).
    """
    colours = THEMES[theme]
    stages = len(trained.stages)
    height = 2.6 + 0.34 * stages
    figure = new_figure(13.0, height + 2.2, colours)
    figure.text(0.02, 0.955, f"{trained.solver}: {stages} model calls, from {start.solver}", size=12.5, weight="bold",
                color=colours.text, parse_math=False)  # fmt: skip

    axes = [
        figure.add_axes((left, 0.62 if top else 0.09, width, (0.28 if top else 0.44)), facecolor=colours.paper)
        for left, width, top in ((0.06, 0.4, True), (0.54, 0.42, True), (0.06, 0.4, False), (0.54, 0.42, False))
    ]
    _times(axes[0], start, trained, colours)
    _validation(axes[1], validations, colours)
    for place, (plan, title) in enumerate(((start, "weights before"), (trained, "weights after"))):
        w = weights(plan)
        table = np.column_stack([w.sample, w.predictions])
        names = ["x", *(f"m{'' if j == 0 else f'−{j}'}" for j in range(w.predictions.shape[1]))]
        _heat_map(axes[2 + place], table, names, colours)
        axes[2 + place].set_title(title, loc="left", fontsize=9, color=colours.faint)
    save_figure(figure, path, colours)


def _plain(axes, title: str, colours) -> None:
    axes.set_title(title, loc="left", fontsize=9, color=colours.faint)
    axes.grid(True, color=colours.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colours.faint, labelsize=8.5, length=0)
    axes.spines[:].set_visible(False)


def _times(axes, start: Plan, trained: Plan, colours) -> None:
    for plan, colour, name in ((start, colours.faint, "before"), (trained, colours.few_steps, "after")):
        axes.plot(range(len(plan.times)), plan.times, "-o", color=colour, markersize=4, linewidth=1, label=name)
    calls = [call for stage in trained.stages for call in stage.calls]
    span = max(abs(call.model_time) for call in calls) or 1.0
    unit = max(abs(call.t) for call in calls) or 1.0
    told = [call.model_time / span * unit for call in calls]
    axes.plot(range(len(told)), told, "x", color=colours.caching, markersize=6, label="told to the network")
    _plain(axes, "time at each call, and at the end", colours)
    axes.legend(fontsize=8, frameon=False, labelcolor=colours.text)


def _validation(axes, validations: Sequence[tuple[int, float]], colours) -> None:
    steps, values = [step for step, _ in validations], [value for _, value in validations]
    axes.plot(steps, values, color=colours.few_steps, linewidth=1.4)
    if values and min(values) > 0:
        axes.set_yscale("log")
    _plain(axes, "validation against steps of training", colours)
