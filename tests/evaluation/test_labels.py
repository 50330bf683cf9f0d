"""Where labels of a plot are put."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pyaccel.evaluation.labels import place_labels


def test_labels_do_not_overlap():
    generator = np.random.default_rng(1)
    figure = Figure(figsize=(7, 5), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.1, 0.85, 0.85))
    points = generator.normal((0.5, 0.5), 0.08, (9, 2))  # crowded: all at the middle of the plot
    axes.set(xlim=(0, 1), ylim=(0, 1))
    place_labels(axes, [(f"a method's name {i}", x, y, "k") for i, (x, y) in enumerate(points)], [], "w", "k")
    boxes = [text.get_window_extent(figure.canvas.get_renderer()) for text in axes.texts]
    assert len(boxes) == 9
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)
