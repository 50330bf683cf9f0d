"""Labels for the points of a plot that cover neither points nor lines nor each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib import patheffects
from matplotlib.transforms import Bbox

# Directions in the order of preference: the side first, since text is wide and low.
DIRECTIONS = ((1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 2), (1, -2), (-1, 2), (-1, -2))
DISTANCES = (10, 18, 30, 46, 66, 90)  # points
ROUNDS = 3
NEAR = 13  # points; a label farther away than this needs a line to its point


def place_labels(
    axes,
    labels: Sequence[tuple[str, float, float, str]],
    line: Sequence[tuple[float, float]],
    halo: str,
    leader: str,
    size: float = 8.5,
) -> None:
    """Writes each (text, x, y, colour) beside its point (x, y), where it covers least of points, ``line`` and labels.

    Greedy, the most crowded points first, in rounds: each label moves again once it knows where the others went. One
    that had to go far gets a thin line in colour ``leader``. The limits and scales of ``axes`` must be set already.
    """
    figure = axes.figure
    renderer = figure.canvas.get_renderer()
    unit = figure.dpi / 72
    points = axes.transData.transform([(x, y) for _, x, y, _ in labels])
    frame = axes.get_window_extent(renderer)
    frame = Bbox.from_extents(frame.x0, frame.y0, frame.x1 + 6 * unit, frame.y1)
    line_points = _along(axes.transData.transform(line), 4 * unit) if len(line) else np.empty((0, 2))
    style = {"fontsize": size, "parse_math": False, "zorder": 5, "textcoords": "offset points", "va": "center"}
    notes = [axes.annotate(text, (x, y), xytext=(0, 0), color=colour, **style) for text, x, y, colour in labels]
    extents = [note.get_window_extent(renderer) for note in notes]
    chosen: dict[int, tuple[Bbox, np.ndarray]] = {}
    for place in sorted(range(len(labels)), key=lambda i: _room(points, i)) * ROUNDS:
        chosen.pop(place, None)
        taken = [box for box, _ in chosen.values()]
        lines = np.concatenate([line_points, *(np.repeat(way, 8, axis=0) for _, way in chosen.values())])
        best = np.inf
        for order, distance in enumerate(DISTANCES):
            for direction, (dx, dy) in enumerate(DIRECTIONS):
                box = _moved(points[place], extents[place].width, extents[place].height, dx, dy, distance * unit)
                way = _leader(points[place], box, unit)
                cost = _cost(box, points, lines, taken, frame, unit) + 3.0 * order + 0.2 * direction
                cost += _crossings(way, np.delete(points, place, axis=0), taken, unit)
                if cost < best:
                    best, chosen[place] = cost, (box, way)
    for place, (box, way) in chosen.items():
        offset = box.x0 - points[place][0], (box.y0 + box.y1) / 2 - points[place][1]
        notes[place].set_position((offset[0] / unit, offset[1] / unit))
        notes[place].set_path_effects([patheffects.withStroke(linewidth=2.5, foreground=halo)])
        if len(way):
            ends = axes.transData.inverted().transform(way[[0, -1]])
            axes.plot(*ends.T, color=leader, linewidth=0.8, alpha=0.8, zorder=2.5, scalex=False, scaley=False)


def _moved(point, width: float, height: float, dx: int, dy: int, distance: float) -> Bbox:
    """The box of a text that is moved from the point into a direction; diagonals overlap the point's column."""
    reach = distance if dy == 0 or dx == 0 else distance * 0.6
    x = point[0] - width / 2 if dx == 0 else point[0] + reach if dx > 0 else point[0] - reach - width
    y = point[1] - height / 2 + dy * reach + np.sign(dy) * height / 2
    return Bbox.from_bounds(x, y, width, height)


def _cost(box: Bbox, points, line_points, taken: Sequence[Bbox], frame: Bbox, unit: float) -> float:
    padded = box.padded(2 * unit)
    cost = 40.0 * sum(padded.overlaps(other) for other in taken)
    cost += 25.0 * _inside(box.padded(5 * unit), points)
    cost += 1.0 * _inside(padded, line_points)
    outside = (
        max(0, frame.x0 - box.x0) + max(0, box.x1 - frame.x1) + max(0, frame.y0 - box.y0) + max(0, box.y1 - frame.y1)
    )
    return cost + 2.0 * outside / unit


def _inside(box: Bbox, points) -> int:
    inside = (points[:, 0] > box.x0) & (points[:, 0] < box.x1) & (points[:, 1] > box.y0) & (points[:, 1] < box.y1)
    return int(inside.sum())


def _room(points, place: int) -> float:
    others = np.delete(points, place, axis=0)
    return float(np.linalg.norm(others - points[place], axis=1).min()) if len(others) else 0.0


def _along(corners, spacing: float):
    """Points along a polyline, ``spacing`` apart."""
    parts = [corners[:1]]
    for a, b in pairwise(corners):
        count = max(1, int(np.linalg.norm(b - a) / spacing))
        parts.append(a + (b - a) * (np.arange(1, count + 1) / count)[:, None])
    return np.concatenate(parts)


def _leader(point, box: Bbox, unit: float):
    """Points along the line from a point to its label; none when the label is near enough to do without."""
    end = np.clip(point, (box.x0, box.y0), (box.x1, box.y1))
    far = np.linalg.norm(end - point) > NEAR * unit
    return _along(np.array([point, end]), 3 * unit) if far else np.empty((0, 2))


def _crossings(way, others, taken: Sequence[Bbox], unit: float) -> float:
    """What a leader costs that runs into other points or through labels."""
    if not len(way):
        return 0.0
    gaps = np.linalg.norm(way[:, None] - others[None], axis=2).min(axis=0) if len(others) else np.empty(0)
    return 2.0 + 15.0 * int((gaps < 6 * unit).sum()) + 15.0 * sum(_inside(box, way) > 0 for box in taken)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """``places`` moved as little as possible, in the sense of least squares, until each two are ``gap`` apart.

    Their order stays. They lie between ``low`` and ``high``; where there is no room for that, the gap shrinks.
    """
    count = len(places)
    if count > 1:
        gap = min(gap, (high - low) / (count - 1))
    order = sorted(range(count), key=lambda i: places[i])
    # Less their rank's share of gaps, the places have to rise only: pooled averages are the nearest that do.
    pools: list[list[float]] = []
    for rank, i in enumerate(order):
        pools.append([places[i] - rank * gap, 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            value, weight = pools.pop()
            pools[-1][0] = (pools[-1][0] * pools[-1][1] + value * weight) / (pools[-1][1] + weight)
            pools[-1][1] += weight
    rising = [value for value, weight in pools for _ in range(int(weight))]
    result = [0.0] * count
    for rank, i in enumerate(order):
        result[i] = min(max(rising[rank], low), high - (count - 1) * gap) + rank * gap
    return result


def label_ends(axes, ends: Sequence[tuple[str, tuple[float, float], str, bool]]) -> None:
    """Names to the right of the frame, at the heights of the lines' ends, moved apart where they would overlap.

    ``ends`` holds (name, the line's last point, colour, whether in bold).
    """
    if not ends:
        return
    box = axes.get_window_extent()
    unit = axes.figure.dpi / 72
    heights = [axes.transData.transform(point)[1] for _, point, *_ in ends]
    for (text, point, colour, bold), height in zip(ends, spread(heights, 12.5 * unit, box.y0, box.y1), strict=True):
        x, y = axes.transAxes.inverted().transform((box.x1 + 26 * unit, height))
        axes.annotate(
            text, point, (x, y), "data", "axes fraction", color=colour, fontsize=9, va="center", parse_math=False,
            weight="bold" if bold else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4,
                        "relpos": (0, 0.5)},
        )  # fmt: skip
