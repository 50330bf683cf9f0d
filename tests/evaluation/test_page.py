"""The demo's page: its rows, what is marked, and ratios to the baseline wherever it stands."""

import re

import pytest

from pyaccel.evaluation.columns import COLUMNS
from pyaccel.evaluation.page import page

KEYS = "name", "family", "model_calls", "full_calls", "seconds", "speedup", "fid", "precision", "recall", "accuracy"


def row(*values, rmse=0.1):
    return {**dict(zip(KEYS, values, strict=True)), "rmse": rmse}


@pytest.fixture
def results():
    return {
        "title": "T",
        "baseline": "Euler",
        "rows": [
            row("DDPM <250>", "SDE", 250, 250, 200.0, 0.2, 1.0, 0.8, 0.8, 0.9, rmse=None),
            row("Euler", "baseline", 50, 50, 40.0, 1.0, 2.0, 0.8, 0.7, 0.9),
            {**row("cached", "caching", 20, 5, 5.0, 8.0, 3.0, 0.7, 0.6, 0.9, rmse=0.3), "note": "<note>"},
        ],
    }


def rows_of(text):
    return re.findall(r"<tr>(.*?)</tr>", text, re.S)


def test_a_line_for_each_row_and_a_column_for_each_figure(results):
    head, *body = rows_of(page(results, results["rows"], "lead", {}))
    assert head.count("<th ") == 1 + len(COLUMNS)
    assert len(body) == 3
    for line in body:
        assert line.count("<td") == 1 + len(COLUMNS)
    assert "DDPM &lt;250&gt;" in body[0]
    assert "&lt;note&gt;" in body[2]
    assert ">–<" in body[0]  # no RMSE


def test_ratios_are_to_the_baseline_and_it_has_none(results):
    _, sde, euler, cached = rows_of(page(results, results["rows"], "lead", {}))
    assert 'class="ratio"' not in euler
    assert '<span class="value">1.00</span><span class="ratio">0.50×</span>' in sde
    assert '<span class="value">3.00</span><span class="ratio">1.50×</span>' in cached
    del results["baseline"]
    _, sde, euler, _ = rows_of(page(results, results["rows"], "lead", {}))
    assert 'class="ratio"' not in sde
    assert '<span class="value">2.00</span><span class="ratio">2.00×</span>' in euler


def test_the_best_is_marked_and_families_have_their_colours(results):
    text = page(results, results["rows"], "lead", {})
    _, sde, euler, cached = rows_of(text)
    assert '<td class="best"><span class="value">1.00</span>' in sde
    assert '<td class="best"><span class="value">0.1000</span>' in euler
    assert '<td class="best"><span class="value">8.0×</span>' in cached
    for line, kind in ((sde, "SDE"), (euler, "baseline"), (cached, "caching")):
        assert f'class="dot {kind}"' in line
        assert f".{kind} {{ background" in text


def test_pictures_are_shown_where_they_are_given(results):
    assert "<img" not in page(results, results["rows"], "lead", {})
    text = page(results, results["rows"], "a <lead>", {"pareto": {"light": "AAA"}, "samples": {}})
    assert text.count("<img") == 1
    assert "a &lt;lead&gt;" in text
    for column in COLUMNS:
        assert text.count(f"<dt>{column.title}<br>") == 1
