"""The bench's picture: a line a solver, whatever is missing."""

import itertools

import pytest
from PIL import Image

from pyaccel.evaluation.bench import figure
from pyaccel.evaluation.bench.figure import error_figure

CALLS = [4, 5, 10]


def row(name, rmse, calls=(4, 5, 10), **more):
    return {"name": name, "kind": "multistep", "calls": list(calls), "rmse": rmse, **more}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws rows and returns the axes that were saved."""
    figures = []
    save = figure.save_figure
    monkeypatch.setattr(figure, "save_figure", lambda f, *rest: (figures.append(f), save(f, *rest)))

    def draw(rows, theme="light"):
        error_figure(tmp_path / "x.png", CALLS, rows, "a $title", theme)
        with Image.open(tmp_path / "x.png") as image:
            assert min(image.size) > 1000
        return figures[-1].axes[0]

    return draw


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_solver_has_a_line_and_a_label_that_overlaps_no_other(drawn, theme):
    axes = drawn([row("DDIM", [3, 2, 1]), *(row(f"solver {i}", [2, 1, 0.5 + i / 1e4]) for i in range(25))], theme)
    assert len(axes.lines) == 26
    assert {text.get_text() for text in axes.texts} == {"DDIM", *(f"solver {i}" for i in range(25))}
    points = 72 * axes.get_window_extent().height / axes.figure.dpi
    heights = sorted(text.xyann[1] * points for text in axes.texts)
    assert min(b - a for a, b in itertools.pairwise(heights)) > 12  # of letters of 9 points


def test_twins_share_a_line_and_a_name(drawn):
    axes = drawn([row("LMS", [2, 1, 0.5]), row("iPNDM-v", [2, 1, 0.5], note="here the same samples as LMS")])
    assert [text.get_text() for text in axes.texts] == ["LMS = iPNDM-v"]


def test_points_stand_where_calls_were_made(drawn):
    axes = drawn([row("Heun", [9, 8, 7], calls=(3, 5, 9)), row("fails", [None, None, None]), row("DDIM", [3, 2, 1])])
    lines = {len(line.get_xdata()): list(line.get_xdata()) for line in axes.lines}
    assert lines == {3: [4, 5, 10], 2: [5, 9]}


def test_nothing_to_draw_is_no_error(drawn):
    assert not drawn([row("fails", [None, None, None])]).lines
