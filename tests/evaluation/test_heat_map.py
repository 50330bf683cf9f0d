import pytest
from PIL import Image

from pyaccel.evaluation.heat_map import heat_map


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("rows", [1, 7, 200])
def test_a_picture(tmp_path, rows, theme):
    values = [[r * s / 10 for s in range(12)] for r in range(rows)]
    heat_map(tmp_path / "m.png", values, [f"blocks.{r}" for r in range(rows)], "change", theme)
    picture = Image.open(tmp_path / "m.png")
    assert picture.width > 1000
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 5


def test_names_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="2 rows of values and 1 names"):
        heat_map(tmp_path / "m.png", [[0.0], [1.0]], ["a"], "change")
