"""The report: complete, self-contained, escaped, right in what it marks and says, and never half written."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from rich.console import Console

from pyaccel.evaluation import report, rich_table, write_report
from pyaccel.evaluation.columns import COLUMNS


def row(name, calls=10, full=None, seconds=1.0, speed=1.0, fid=4.0, precision=0.8, recall=0.7, accuracy=0.9, rmse=0.1):
    return {
        "name": name,
        "model_calls": calls,
        "full_calls": calls if full is None else full,
        "seconds": seconds,
        "speedup": speed,
        "fid": fid,
        "precision": precision,
        "recall": recall,
        "accuracy": accuracy,
        "rmse": rmse,
    }


@pytest.fixture
def results():
    return {
        "title": "A <demo> & more",
        "machine": 'the "best" one',
        "settings": {"samples": 1000, "<seed>": 0},
        "rows": [
            row("Euler <50>", 50, seconds=40.0, rmse=0.03),
            row("UniPC [bold]8[/bold]", 8, seconds=6.4, speed=6.25, fid=4.2, rmse=0.05),
            {**row("cached", 20, 6, seconds=5.0, speed=8.0, fid=4.3, accuracy=0.85), "note": "x < y"},
            {**row("diverged", 4, fid=math.nan, precision=None), "rmse": math.inf, "recall": torch.tensor(0.25)},
        ],
    }


@pytest.fixture
def samples(results):
    return {row["name"]: torch.zeros(3, 1, 28, 28) for row in results["rows"][:3]}


class Page(HTMLParser):
    """Collects tags in balance, addresses, and the text of table cells."""

    VOID = frozenset({"meta", "img", "source", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.cells, self.best, self.lead = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[name] for name in ("src", "srcset", "href") if name in attributes]
        if tag == "td":
            self.cells.append("")
            self.best.append(attributes.get("class") == "best")
        if tag not in self.VOID:
            self.open.append((tag, attributes.get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(tag == "td" for tag, _ in self.open):
            self.cells[-1] += data
        if ("p", "lead") in self.open:
            self.lead += data


def test_writes_all_four_files_and_nothing_else(tmp_path, results, samples):
    path = write_report(tmp_path / "deep" / "folder", results, samples)
    assert path == tmp_path / "deep" / "folder" / "report.html"
    names = {"results.json", "samples.png", "pareto.png", "report.html"}
    assert {file.name for file in path.parent.iterdir()} == names


def test_the_json_is_strict_and_keeps_the_values(tmp_path, results, samples):
    write_report(tmp_path, results, samples)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    read = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert read["rows"][:3] == results["rows"][:3]
    diverged = read["rows"][3]
    assert (diverged["fid"], diverged["rmse"], diverged["precision"], diverged["recall"]) == (None, None, None, 0.25)
    assert read["machine"] == results["machine"]


def test_the_page_needs_nothing_else(tmp_path, results, samples):
    text = write_report(tmp_path, results, samples).read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.addresses) == 4  # two figures, light and dark
    for address in page.addresses:
        kind, data = address.split(",", 1)
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    assert base64.b64encode((tmp_path / "pareto.png").read_bytes()).decode() in text
    assert not re.search(r"(https?:)?//\w|@import|<script", re.sub(r"base64,[^\"]*", "", text))
    assert "prefers-color-scheme: dark" in text


def test_everything_is_escaped(tmp_path, results, samples):
    text = write_report(tmp_path, results, samples).read_text()
    for raw in ("<demo>", "<50>", "<seed>", "x < y"):
        assert raw not in text
    assert "A &lt;demo&gt; &amp; more" in text
    assert "Euler &lt;50&gt;" in text
    assert "the &quot;best&quot; one" in text


def test_the_table_shows_and_marks_the_right_values(tmp_path, results, samples):
    page = Page(write_report(tmp_path, results, samples).read_text())
    width = len(COLUMNS) + 1
    table = [page.cells[i : i + width] for i in range(0, len(page.cells), width)]
    assert [line[0] for line in table] == ["Euler <50>", "UniPC [bold]8[/bold]", "cachedx < y", "diverged"]
    assert table[1][1:] == [
        "8",
        "8",
        "6.40",
        "6.2×",
        "4.201.05×",
        "0.8001.00×",
        "0.7001.00×",
        "90.0 %1.00×",
        "0.05001.67×",
    ]
    assert table[3][5:] == ["–", "–", "0.2500.36×", "90.0 %1.00×", "–"]
    best = {(i // width, COLUMNS[i % width - 1].key) for i, marked in enumerate(page.best) if marked}
    assert {key for line, key in best if line == 0} == {"fid", "precision", "recall", "accuracy", "rmse"}
    assert {key for line, key in best if line == 2} == {"speedup", "precision", "recall"}


def test_each_column_is_explained_with_its_direction(tmp_path, results, samples):
    text = write_report(tmp_path, results, samples).read_text()
    legend = text[text.index("<dl>") :]
    for column in COLUMNS:
        assert column.title in legend
        assert column.better in ("smaller", "larger")
    assert legend.count("smaller is better") == 5
    assert legend.count("larger is better") == 4


def test_the_opening_praises_the_fastest_row_of_equal_quality(results):
    text = report.opening(results)  # "cached" is faster still, but 5 points of class accuracy below the baseline
    assert text.startswith("UniPC [bold]8[/bold] samples 6.2× as fast as Euler <50> (6.40 s instead of 40.0 s)")
    assert "FID 4.20 against 4.00" in text
    results["rows"][1]["fid"] = 4.41
    assert report.best_row(results) is None
    assert (
        "No faster method here keeps within 10 % of the FID of Euler <50>, 4.00; the nearest is cached"
        in report.opening(results)
    )
    assert "4.00." in report.opening({"rows": results["rows"][:1]})


def test_a_failure_leaves_the_old_report_whole(tmp_path, results, samples, monkeypatch):
    write_report(tmp_path, results, samples)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "samples_figure", fail)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path, {**results, "title": "another"}, samples)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_serves_rows_of_nothing_but_names_without_samples(tmp_path):
    page = Page(write_report(tmp_path, {"rows": [{"name": "a"}, {"name": "b"}]}, {}).read_text())
    assert page.cells == ["a", *["–"] * 9, "b", *["–"] * 9]
    assert not (tmp_path / "samples.png").exists()


def test_bad_input_is_named(tmp_path, results):
    with pytest.raises(ValueError, match="at least one row"):
        write_report(tmp_path, {"rows": []}, {})
    with pytest.raises(ValueError, match="no name"):
        write_report(tmp_path, {"rows": [{"fid": 1}]}, {})
    with pytest.raises(ValueError, match="typo belong to no row"):
        write_report(tmp_path, results, {"typo": torch.zeros(1, 1, 28, 28)})


def test_the_terminal_table_shows_all_columns_in_80_characters(results):
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(rich_table(results))
    text = console.file.getvalue()
    for word in ("RMSE↓", "Speed↑", "0.0500", "6.2×", "90.0 %", "[bold]"):
        assert word in text
    assert "…" not in text
    coloured = Console(width=120, file=io.StringIO(), force_terminal=True, color_system="standard")
    coloured.print(rich_table(results))
    assert re.search(r"\x1b\[1;32m *0\.0300", coloured.file.getvalue())
