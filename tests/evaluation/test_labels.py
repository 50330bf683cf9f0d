"""Where labels of a plot are put."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pyaccel.evaluation.labels import place_labels, spread


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


def test_spread_keeps_order_and_distance_and_moves_little():
    generator = np.random.default_rng(3)
    for count in (1, 2, 30):
        places = generator.normal(50, 10, count)
        moved = np.array(spread(list(places), 2.0, 0.0, 100.0))
        assert np.array_equal(np.argsort(moved), np.argsort(places))
        assert count < 2 or np.diff(np.sort(moved)).min() > 2.0 - 1e-9
        assert moved.min() >= 0
        assert moved.max() <= 100
    assert spread([10.0, 20.0], 2.0, 0.0, 100.0) == [10.0, 20.0]
    assert spread([50.0, 50.0], 4.0, 0.0, 100.0) == [48.0, 52.0]
    assert spread([], 2.0, 0.0, 1.0) == []


def test_spread_shrinks_the_distance_where_there_is_no_room():
    assert np.allclose(spread([5.0] * 11, 3.0, 0.0, 10.0), np.arange(11))
