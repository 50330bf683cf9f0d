"""The bench's page stands alone and says what was measured."""

import json
import re

from pyaccel.evaluation.bench.report import write_json, write_report


def results():
    rows = [
        {"name": "DDIM", "kind": "first order", "calls": [4, 8], "rmse": [0.4, 0.2]},
        {"name": "DPM-Solver++(2M)", "kind": "multistep", "calls": [4, 8], "rmse": [0.3, 0.1]},
    ]
    entry = {"schedule": {"name": "flow", "parameters": {}}, "prediction": "flow", "rows": rows}
    models = {"fashion-dit": entry, "other": {**entry, "prediction": "epsilon"}}
    return {"title": "a <bench>", "machine": "m", "settings": {"images": 2}, "calls": [4, 8], "models": models}


def test_writes_a_page_a_picture_a_model_and_the_numbers(tmp_path):
    path = write_report(tmp_path / "deep", results())
    names = {"report.html", "results.json", "rmse-fashion-dit.png", "rmse-other.png"}
    assert {file.name for file in path.parent.iterdir()} == names
    text = path.read_text()
    assert text.count("<img ") == 2
    assert not re.search(r"(https?:)?//\w|<script", re.sub(r"base64,[^\"]*", "", text))
    assert "a &lt;bench&gt;" in text
    assert "fashion-dit: flow prediction on flow" in text
    assert "other: epsilon prediction on flow" in text
    assert "<dt>reproduced</dt>" in text
    assert "1.3× nearer than DDIM" in text
    assert json.loads((path.parent / "results.json").read_text()) == results()


def test_numbers_alone_are_written_whole(tmp_path):
    write_json(tmp_path, results())
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
