"""A plan as a picture: where it calls the model, and what each step makes of what is known."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import TwoSlopeNorm

from ..solvers import Plan
from .figures import THEMES, new_figure, save_figure

WRITTEN = 40  # with more steps than this the numbers no longer fit into the cells
NOTHING = 1e-12  # a coefficient below this is rounding


@dataclass(frozen=True)
class Weights:
    """Each step as x' = ``sample``·x + Σ_j ``predictions``[j]·m_j + ``noise``·ξ, one row a stage.

    x is what the model saw last, m_j the predictions from the newest on, ξ unit Gaussian noise.
    """

    sample: np.ndarray
    predictions: np.ndarray
    noise: np.ndarray


def weights(plan: Plan) -> Weights:
    """The plan's steps over samples and predictions, whatever its registers hold in between.

    Each register is expanded over the initial noise, all predictions and all draws; the weight of x is the share of
    its Gaussian part that x' keeps. Raises ValueError for a plan with coefficients that are tensors.
    """
    if plan.tensors:
        raise ValueError(
            f"the coefficients of {plan.solver} differ from element to element; there is no picture of them"
        )
    calls, width = plan.calls, 1 + plan.calls + len(plan.draws)

    def row_of(row, held: dict[int, np.ndarray], new: list[np.ndarray]) -> np.ndarray:
        total = np.zeros(width)
        for register, factor in row.reads.items():
            total += factor * held[register]
        for factor, vector in zip(row.new, new, strict=True):
            total += factor * vector
        for draw, factor in row.noise.items():
            total[1 + calls + draw] += factor
        return total

    unit = np.eye(width)
    held = {row.target: row_of(row, {}, [unit[0]]) for row in plan.start}
    gaussian = [0, *range(1 + calls, width)]
    first, result = 0, []
    for place, stage in enumerate(plan.stages):
        before = held[stage.calls[0].input]
        new = [unit[1 + first + j] for j in range(len(stage.calls))]
        held |= {row.target: row_of(row, held, new) for row in stage.rows}
        last = place + 1 == len(plan.stages)
        after = held[plan.output if last else plan.stages[place + 1].calls[0].input]
        first += len(stage.calls)
        known = [i for i in gaussian if i == 0 or before[i]]  # draws that x has not seen are this step's own
        size = float(before[known] @ before[known])
        kept = float(after[known] @ before[known]) / size if size else 0.0
        rest = after - kept * before
        ages = rest[first:0:-1]  # newest first
        result.append((kept, ages, float(np.linalg.norm(rest[gaussian]))))
    count = max(len(ages) for _, ages, _ in result)
    table = np.array([np.pad(ages, (0, count - len(ages))) for _, ages, _ in result])
    table[abs(table) < NOTHING * max(1.0, abs(table).max())] = 0.0
    used = max(1, int(np.flatnonzero(table.any(axis=0)).max(initial=0)) + 1)
    noise = np.array([noise if noise > 1e-9 else 0.0 for *_, noise in result])
    return Weights(np.array([kept for kept, *_ in result]), table[:, :used], noise)


def plan_figure(path: str | os.PathLike, plan: Plan, theme: str = "light") -> None:
    """Writes a PNG: for each stage its time, its log-SNR, and the weights of x, of the predictions and of noise.

    One line a stage, from noise at the top to data at the bottom. Raises ValueError as :func:`weights` does.
    """
    colours, w, count = THEMES[theme], weights(plan), len(plan.stages)
    columns = ["x", *(f"m{_age(j)}" for j in range(w.predictions.shape[1])), *(["noise"] if w.noise.any() else [])]
    table = np.column_stack([w.sample, w.predictions, *([w.noise] if w.noise.any() else [])])
    body = float(np.clip(0.36 * count, 2.2, 10.5))
    height, width = body + 1.8, 6.3 + float(np.clip(0.78 * len(columns), 3.2, 10.0))
    figure = new_figure(width, height, colours)
    title = f"{plan.solver} on {plan.schedule[0]}: {plan.steps} steps, {plan.calls} model calls"
    parameters = ", ".join(f"{k}={v}" for k, v in plan.options.items() if v not in (None, ""))
    legend = "x: the sample that the model saw; m: its prediction then; m−1: the one before"
    legend += "; noise: fresh and Gaussian" if w.noise.any() else ""
    style = {"x": 0.25 / width, "va": "center", "parse_math": False}
    figure.text(y=1 - 0.34 / height, s=title, size=12.5, weight="bold", color=colours.text, **style)
    figure.text(y=1 - 0.62 / height, s=parameters, size=8.5, color=colours.faint, **style)
    figure.text(y=0.16 / height, s=legend, size=8.5, color=colours.faint, **style)
    bottom = 0.67 / height
    axes = [
        figure.add_axes((left / width, bottom, size / width, body / height), facecolor=colours.paper)
        for left, size in ((0.75, 2.3), (3.3, 2.3), (5.95, width - 6.2))
    ]
    calls = [(place, call) for place, stage in enumerate(plan.stages) for call in stage.calls]
    log_snr = [(place, np.log(call.alpha / call.sigma)) for place, call in calls if call.alpha > 0 and call.sigma > 0]
    _points(axes[0], [(place, call.t) for place, call in calls], "time t of the call", count, colours)
    _points(axes[1], log_snr, "log(alpha/sigma)", count, colours)
    axes[1].set_yticklabels([])
    axes[0].set_ylabel("stage", color=colours.faint, fontsize=9)
    _heat_map(axes[2], table, columns, colours)
    axes[2].set_title("weights in the new sample", loc="left", fontsize=9, color=colours.faint)
    save_figure(figure, path, colours)


def _age(j: int) -> str:
    return "" if j == 0 else f"−{j}"


def _points(axes, points: list[tuple[int, float]], title: str, count: int, colours) -> None:
    axes.set_title(title, loc="left", fontsize=9, color=colours.faint)
    axes.plot([x for _, x in points], [y for y, _ in points], "-o", color=colours.few_steps, markersize=4, linewidth=1)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks(range(0, count, max(1, -(-count // 25))))
    axes.grid(True, color=colours.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colours.faint, labelsize=8.5, length=0)
    axes.spines[:].set_visible(False)


def _heat_map(axes, table: np.ndarray, columns: list[str], colours) -> None:
    """Purple above 0, orange below, deeper with the square root of the size, so that small weights are seen too."""
    depth = np.sign(table) * np.sqrt(abs(table))
    limit = max(1e-9, abs(depth).max())
    axes.imshow(depth, cmap="PuOr", norm=TwoSlopeNorm(0, -1.25 * limit, 1.25 * limit), aspect="auto",
                interpolation="nearest")  # fmt: skip
    axes.set_yticks([])
    axes.set_xticks(range(len(columns)), columns)
    axes.tick_params(colors=colours.text, labelsize=8.5, length=0)
    axes.spines[:].set_visible(False)
    if len(table) > WRITTEN or len(columns) > 14:
        return
    for (y, x), value in np.ndenumerate(table):
        if value:
            strong = abs(depth[y, x]) > 0.8 * limit
            axes.text(x, y, _short(value), ha="center", va="center", size=8, color="#ffffff" if strong else "#1b1f27")


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0e}"
