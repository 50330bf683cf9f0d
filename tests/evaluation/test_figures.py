"""Figures: what is drawn is what was given, whole and readable, also where values are missing."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from pyaccel.evaluation import image_grid, pareto_figure, samples_figure
from pyaccel.evaluation.figures import pareto_front, to_pixels


def random_samples(count, channels=1, seed=0):
    return torch.rand(count, channels, 28, 28, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def rows(*values):
    """Rows from (name, calls, full calls, speed-up, FID, RMSE)."""
    keys = "name", "model_calls", "full_calls", "speedup", "fid", "rmse"
    return [dict(zip(keys, value, strict=True)) for value in values]


def test_pixels_are_rounded_clamped_and_nan_is_seen():
    samples = torch.tensor([-1, 0, 1, -7, 7, math.nan, math.inf, 0.5]).reshape(1, 1, 2, 4)
    grey = [0, 128, 255, 0, 255, None, 255, 191]
    for pixel, value in zip(to_pixels(samples).reshape(-1, 3).tolist(), grey, strict=True):
        assert pixel == ([255, 0, 255] if value is None else [value] * 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_holds_every_picture_in_its_place(tmp_path, channels):
    samples = random_samples(7, channels)
    image_grid(tmp_path / "grid.png", samples, columns=3, scale=2, gap=1)
    with Image.open(tmp_path / "grid.png") as image:
        grid = np.asarray(image.convert("RGB"))
    assert grid.shape == (2 * (3 * 29 - 1), 2 * (3 * 29 - 1), 3)
    for place, picture in enumerate(to_pixels(samples)):
        y, x = 2 * 29 * (place // 3), 2 * 29 * (place % 3)
        assert np.array_equal(grid[y : y + 56 : 2, x : x + 56 : 2], picture)
    assert (grid[2 * 29 * 2 :, 2 * 29 :] == 255).all()  # no eighth picture


def test_the_grid_is_square_by_default(tmp_path):
    image_grid(tmp_path / "grid.png", random_samples(16), scale=1, gap=0)
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size == (112, 112)


@pytest.mark.parametrize("shape", [(28, 28), (0, 1, 28, 28), (2, 2, 28, 28)])
def test_what_is_no_picture_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="samples must have shape"):
        image_grid(tmp_path / "grid.png", torch.zeros(shape))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_samples_figure_draws_each_row(tmp_path, theme):
    one, two = torch.full((4, 1, 28, 28), -1.0), torch.full((4, 1, 28, 28), 0.2)
    names = "Euler $50$ steps", "UniPC, 20 steps + TaylorSeer with a name that is far too long for its place here"
    samples_figure(tmp_path / "s.png", [(names[0], 1.0, one), (names[1], None, two)], count=4, theme=theme)
    with Image.open(tmp_path / "s.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    right = pixels[:, width // 4 :]
    assert abs(right[height // 4, width // 2] - 0).max() <= 1
    assert abs(right[3 * height // 4, width // 2] - 153).max() <= 1
    paper = pixels[0, 0]
    for half in (pixels[: height // 2, : width // 6], pixels[height // 2 :, : width // 6]):
        assert (abs(half - paper).max(axis=2) > 60).mean() > 0.002  # there is text beside each row


def test_pareto_front_is_the_set_that_nothing_beats():
    generator = np.random.default_rng(0)
    points = [tuple(point) for point in generator.random((40, 2))]
    expected = {
        i
        for i, (speed, error) in enumerate(points)
        if not any(s >= speed and e <= error and (s, e) != (speed, error) for s, e in points)
    }
    front = pareto_front(points)
    assert set(front) == expected
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in expected)
    assert pareto_front([(1, 1), (1, 1), (2, 1)]) == [2]


@pytest.mark.parametrize(
    "values",
    [
        rows(("Euler", 50, 50, 1.0, 3.0, 0.03), ("UniPC", 8, 8, 6.0, 3.1, 0.05), ("cached", 20, 6, 5.0, 3.0, 0.04)),
        rows(
            ("Euler", 50, 50, 1.0, 3.0, 0.03), ("diverged", 5, 5, 9.0, math.nan, math.inf), ("none", 5, 5, None, 3, 1)
        ),
        rows(("exact", 50, 50, 1.0, 0.0, 0.0), ("$x^2$ <b>", 8, 8, 6.0, 3.1, 0.05)),
        rows(("alone", 50, 50, 1.0, 3.0, 0.03)),
        rows(("nothing", 50, 50, math.nan, None, None)),
        [{"name": "only a name"}],
    ],
)
def test_pareto_figure_serves_missing_equal_and_zero_values(tmp_path, values):
    pareto_figure(tmp_path / "p.png", {"rows": values})
    with Image.open(tmp_path / "p.png") as image:
        assert image.size[0] > 1500
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10
