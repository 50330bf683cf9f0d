"""The pictures of a report: the same samples by every method, and what each method pays for its speed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from PIL import Image

from ..files import write_atomically
from .columns import BY_KEY, Column, baseline_of, checked, family, speedup
from .labels import place_labels


@dataclass(frozen=True)
class Theme:
    """Colours of a figure: paper, text, faint text, lines, and one colour per family of methods, some for the best.

    A family may have kinds, which share its colour: "students, cached".
    """

    paper: str
    text: str
    faint: str
    line: str
    baseline: str
    few_steps: str
    caching: str
    sde: str
    students: str
    best: tuple[str, ...]

    def of(self, name: str) -> str:
        """The colour of a family; families of other names are faint."""
        colours = {
            "baseline": self.baseline, "few steps": self.few_steps, "caching": self.caching, "SDE": self.sde,
            "students": self.students, "trained solvers": self.few_steps,
        }  # fmt: skip
        return colours.get(name.partition(",")[0], self.faint)


THEMES = {
    "light": Theme(
        "#ffffff", "#1b1f27", "#6a7280", "#e3e6eb", "#4b5563", "#2563eb", "#d9670b", "#8b3fd1", "#0b8a54",
        ("#2563eb", "#d9670b", "#0b8a54", "#c2255c", "#8b3fd1", "#0c8599"),
    ),
    "dark": Theme(
        "#171b22", "#e8eaee", "#98a1af", "#2e3541", "#b8c0cc", "#6ea8fe", "#f5a155", "#c29bf5", "#6fdba6",
        ("#6ea8fe", "#f5a155", "#6fdba6", "#f783ac", "#c29bf5", "#66d9e8"),
    ),
}  # fmt: skip
SPELLED = 4  # names of rows that a figure cannot show
MARKERS = {
    "baseline": "s", "few steps": "o", "trained solvers": "P", "caching": "D", "SDE": "v", "students": "^",
    "students, tuned": "*", "students, cached": "d",
}  # fmt: skip


def to_pixels(samples: torch.Tensor) -> np.ndarray:
    """Samples [N, 1 or 3, H, W] in [−1, 1] as bytes [N, H, W, 3]; NaN turns magenta, to be seen."""
    if samples.dim() != 4 or samples.shape[1] not in (1, 3) or len(samples) == 0:
        raise ValueError(f"samples must have shape [N, 1 or 3, H, W] with N >= 1, got {list(samples.shape)}")
    samples = samples.detach().float().cpu()
    broken = samples.isnan().any(dim=1)
    pixels = samples.nan_to_num(0).clamp(-1, 1).add(1).mul(127.5).round().byte()
    pixels = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).clone()
    pixels[broken] = torch.tensor([255, 0, 255], dtype=torch.uint8)
    return pixels.numpy()


def image_grid(
    path: str | os.PathLike, samples: torch.Tensor, columns: int | None = None, scale: int = 3, gap: int = 1
) -> None:
    """Writes samples [N, 1 or 3, H, W] in [−1, 1] as one PNG, row by row, each pixel ``scale`` × ``scale`` large.

    ``columns`` is the integer next above √N by default; ``gap`` is the space between pictures in their own pixels.
    """
    pixels = to_pixels(samples)
    columns = columns or int(np.ceil(np.sqrt(len(pixels))))
    if columns < 1 or scale < 1 or gap < 0:
        raise ValueError(f"image_grid needs columns >= 1, scale >= 1, gap >= 0, got {columns}, {scale}, {gap}")
    grid = Image.fromarray(_tile(pixels, columns, gap, fill=(255, 255, 255)))
    grid = grid.resize((grid.width * scale, grid.height * scale), Image.Resampling.NEAREST)
    write_atomically(path, lambda temporary: grid.save(temporary, format="PNG"))


def _tile(pixels: np.ndarray, columns: int, gap: int, fill: tuple[int, int, int]) -> np.ndarray:
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    canvas = np.empty((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), np.uint8)
    canvas[:] = fill
    for place, picture in enumerate(pixels):
        y, x = (place // columns) * (height + gap), (place % columns) * (width + gap)
        canvas[y : y + height, x : x + width] = picture
    return canvas


def samples_figure(
    path: str | os.PathLike,
    rows: Sequence[tuple[str, float | None, torch.Tensor]],
    count: int = 14,
    theme: str = "light",
    baseline: str | None = None,
) -> None:
    """Writes a PNG with one line per method: its name and speed-up, and its first ``count`` samples.

    ``rows`` holds (name, speed-up or None, samples [M, 1 or 3, H, W] in [−1, 1]), with the same noise and labels in
    every row: so each column shows one picture as every method draws it. ``baseline`` names its row,
    otherwise it is the first.
    """
    if not rows:
        raise ValueError("samples_figure needs at least one row")
    colours, baseline = THEMES[theme], baseline or rows[0][0]
    label, gap = 2.45, 0.05  # inches: the text at the left, the space around a picture
    shown = min(count, max(len(samples) for _, _, samples in rows))
    side = 10.6 / shown
    width, height = label + shown * side + 0.1, 0.2 + len(rows) * side
    figure = new_figure(width, height, colours)
    for place, (name, speed, samples) in enumerate(rows):
        bottom = height - 0.1 - (place + 1) * side
        middle = (bottom + side / 2) / height
        lines = _wrapped(name, 26)
        top = (len(lines) - (speed is None)) / 2  # half a line up for every other line
        for number, line in enumerate(lines):
            y = middle + 0.17 * (top - number) / height
            weight = "bold" if number == 0 else "normal"
            figure.text(
                0.12 / width, y, line, size=9.5, weight=weight, color=colours.text, va="center", parse_math=False
            )
        if speed is not None:
            y = middle + 0.17 * (top - len(lines) - 0.1) / height
            text = "baseline" if name == baseline else f"{speedup(speed)} as fast"
            figure.text(0.12 / width, y, text, size=8.5, color=colours.faint, va="center")
        for column, picture in enumerate(to_pixels(samples[:shown])):
            x = label + column * side + gap / 2
            box = (x / width, (bottom + gap / 2) / height, (side - gap) / width, (side - gap) / height)
            axes = figure.add_axes(box, xticks=[], yticks=[])
            axes.imshow(picture, interpolation="nearest", aspect="auto")
            axes.spines[:].set_visible(False)
    save_figure(figure, path, colours)


def _wrapped(text: str, width: int) -> list[str]:
    """At most two lines, broken at " + ", " (" or a space; what does not fit is cut with an ellipsis."""
    if len(text) <= width:
        return [text]
    cut = next((cut for cut in (text.rfind(sign, 0, width) for sign in (" + ", " (", " ")) if cut > 0), width)
    rest = text[cut:].strip()
    return [text[:cut], rest if len(rest) <= width + 4 else rest[: width + 3] + "…"]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of those (speed, error) that no other point beats in both, in the order of rising speed."""
    front, best = [], np.inf
    for place in sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1])):
        if points[place][1] < best:
            front.append(place)
            best = points[place][1]
    return front[::-1]


def pareto_figure(path: str | os.PathLike, results: Mapping, theme: str = "light") -> None:
    """Writes a PNG with two panels: RMSE and FID against the speed-up, both better towards the lower right.

    Axes are logarithmic (the vertical one unless a value is 0). The line joins the Pareto front: the methods that no
    other one beats in both. A row without the value, or with NaN, is left out of that panel and named below it.
    """
    rows, colours = checked(results), THEMES[theme]
    figure = new_figure(12.6, 6.4, colours)
    for number, key in enumerate(("rmse", "fid")):
        axes = figure.add_axes((0.06 + 0.5 * number, 0.18, 0.425, 0.74), facecolor=colours.paper)
        _pareto_panel(axes, rows, baseline_of(results), BY_KEY[key], colours)
    baseline = baseline_of(results)
    families = dict.fromkeys(family(row, row is baseline) for row in rows)
    for name in families:
        handle = {"marker": MARKERS.get(name, "^"), "color": colours.of(name), "linestyle": "", "label": name}
        figure.axes[0].plot([], [], markersize=7, **handle)
    figure.axes[0].plot([], [], color=colours.faint, linewidth=1.6, alpha=0.7, label="Pareto front")
    figure.legend(
        loc="lower center", ncols=len(families) + 1, frameon=False, labelcolor=colours.text, fontsize=9.5,
        bbox_to_anchor=(0.5, 0.0), handletextpad=0.5, columnspacing=2.2,
    )  # fmt: skip
    save_figure(figure, path, colours)


def _pareto_panel(axes, rows: Sequence[Mapping], baseline: Mapping, column: Column, colours: Theme) -> None:
    speed = BY_KEY["speedup"]
    drawn, absent = [], []
    for row in rows:
        x, y = speed.value(row), column.value(row)
        usable = x is not None and x > 0 and y is not None
        (drawn if usable else absent).append((row["name"], family(row, row is baseline), x, y))
    what = {"rmse": "RMSE to the exact solution", "fid": "FID to the real images"}[column.key]
    axes.set_title(f"{what}, smaller is better", loc="left", color=colours.text, fontsize=11.5, weight="bold", pad=10)
    axes.set_xlabel("speed-up over the baseline, larger is better", color=colours.faint, fontsize=9.5, labelpad=6)
    plain_axes(axes, colours)
    if absent:
        names = ", ".join(name for name, *_ in absent[:SPELLED])
        names += f" and {len(absent) - SPELLED} more" if len(absent) > SPELLED else ""
        axes.text(0, -0.155, f"not drawn, no value: {names}", transform=axes.transAxes, color=colours.faint, fontsize=8,
                  parse_math=False)  # fmt: skip
    if not drawn:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=colours.faint, fontsize=11)
        axes.set(xticks=[], yticks=[])
        return
    xs, ys = [x for *_, x, _ in drawn], [y for *_, y in drawn]
    _scale(axes, "x", xs, pad=(0.1, 0.16), text=lambda v, _: f"{v:g}×")
    _scale(axes, "y", ys, pad=(0.12, 0.14), text=lambda v, _: f"{v:g}")
    front = pareto_front(list(zip(xs, ys, strict=True)))
    axes.plot([xs[i] for i in front], [ys[i] for i in front], color=colours.faint, linewidth=1.6, alpha=0.7, zorder=2)
    for place, (_, group, x, y) in enumerate(drawn):
        kept = 1.0 if place in front or group == "baseline" else 0.55
        axes.plot(x, y, MARKERS.get(group, "^"), color=colours.of(group), markersize=8, alpha=kept,
                  markeredgecolor=colours.paper, markeredgewidth=1.2, zorder=3)  # fmt: skip
    labels = [(name, x, y, colours.of(group)) for name, group, x, y in drawn]
    place_labels(axes, labels, [(xs[i], ys[i]) for i in front], halo=colours.paper, leader=colours.faint)


def _scale(axes, direction: str, values: Sequence[float], pad: tuple[float, float], text) -> None:
    """A logarithmic axis with plain numbers at 1, 2, 5, …, and room around the outer points for their labels."""
    low, high = min(values), max(values)
    logarithmic = low > 0
    a, b = (np.log10(low), np.log10(high)) if logarithmic else (low, high)
    span = max(b - a, 0.1 if logarithmic else abs(b) * 0.1 + 1e-6)
    limits = (a - pad[0] * span, b + pad[1] * span)
    axis = axes.xaxis if direction == "x" else axes.yaxis
    set_scale, set_limits = getattr(axes, f"set_{direction}scale"), getattr(axes, f"set_{direction}lim")
    if logarithmic:
        set_scale("log")
        set_limits(10 ** limits[0], 10 ** limits[1])
        wanted = (1, 2, 5) if span > 1.1 else (1, 1.5, 2, 3, 4, 5, 7) if span > 0.3 else np.arange(1, 10, 0.5)
        ticks = [m * 10.0**e for e in range(int(limits[0]) - 2, int(limits[1]) + 2) for m in wanted]
        axis.set_ticks([tick for tick in ticks if 10 ** limits[0] <= tick <= 10 ** limits[1]])
        axis.set_minor_formatter(NullFormatter())
    else:
        set_limits(*limits)
    axis.set_major_formatter(FuncFormatter(text))


def plain_axes(axes, colours: Theme) -> None:
    """A grid of thin lines, a line at the bottom, and faint numbers without ticks."""
    axes.tick_params(colors=colours.faint, labelsize=9, length=0, which="both")
    axes.grid(True, color=colours.line, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(colours.line)


def new_figure(width: float, height: float, colours: Theme) -> Figure:
    """An empty figure of that many inches."""
    figure = Figure(figsize=(width, height), facecolor=colours.paper)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike, colours: Theme) -> None:
    """Writes the figure as a PNG, atomically."""

    def write(temporary: Path) -> None:
        figure.savefig(temporary, format="png", dpi=150, facecolor=colours.paper)

    write_atomically(path, write)
