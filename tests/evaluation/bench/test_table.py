"""The bench's table, in HTML and in the terminal."""

from rich.console import Console

from pyaccel.evaluation.bench.table import best_cells, cell, html_table, rich_table

CALLS = [4, 8]
ROWS = [
    {"name": "a <b>", "kind": "multistep", "calls": [4, 8], "rmse": [0.5, 0.25]},
    {"name": "two calls a step", "kind": "singlestep", "calls": [3, 7], "rmse": [0.75, 0.125], "note": "as <c>"},
    {"name": "cannot", "kind": "singlestep", "calls": [None, 8], "rmse": [None, 1e9]},
]


def test_cells():
    assert [cell(v) for v in (None, 0.12345, 12345.6)] == ["–", "0.1235", "1.23e+04"]
    assert best_cells(CALLS, ROWS) == ["0.5000", "0.1250"]
    assert best_cells(CALLS, ROWS[:1]) == [None, None]


def test_html_marks_the_best_and_says_fewer_calls():
    text = html_table(CALLS, ROWS)
    assert text.count('class="best"') == 2
    assert '<td class="best"><span class="value">0.1250</span><span class="ratio">7 calls</span>' in text
    assert '<span class="value">0.5000</span></td>' in text
    assert "<b>" not in text
    assert "as &lt;c&gt;" in text


def test_the_terminal_shows_every_value():
    console = Console(width=80, record=True)
    console.print(rich_table(CALLS, ROWS, "a [model]"))
    text = console.export_text()
    for part in ("a [model]", "a <b>", "0.5000", "0.1250", "–", "1e+09"):
        assert part in text
