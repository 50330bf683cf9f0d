"""docs/methods.md: its table is the one of the registers, the zoo and the results as they are."""

import json
import sys
from pathlib import Path

import pytest

from pyaccel import caching, zoo
from pyaccel.distill import RECIPES
from pyaccel.evaluation.tuning import CHOSEN
from pyaccel.solvers.family import SOLVERS
from pyaccel.training.solver_methods import METHODS

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import methods_table
import result_files


def row(name, file):
    (found,) = [r for r in methods_table.rows() if r[0] == f"`{name}`" and file in r[2]]
    return dict(zip(methods_table.HEAD, found, strict=True))


def test_the_page_is_up_to_date():
    text = methods_table.PAGE.read_text()
    assert methods_table.page(text) == text, "run: python benchmarks/methods_table.py"


def test_everything_is_in_it_once_for_each_register():
    names = [r[0].strip("`") for r in methods_table.rows() if isinstance(r, list)]
    assert sorted(names) == sorted([*SOLVERS, *METHODS, *CHOSEN, *caching.CACHES, *RECIPES])
    for r in methods_table.rows():
        if isinstance(r, list):
            assert len(r) == len(methods_table.HEAD)
            path = r[2].split("(../")[1].rstrip(")")
            assert (methods_table.ROOT / path).is_file()


def test_figures_of_the_zoo(monkeypatch, tmp_path):
    monkeypatch.setattr(result_files, "RESULTS", tmp_path)
    figures = zoo.card("fashion-dit-dmd2")["figures"]
    found = row("dmd2", "distill")
    assert [found[c] for c in ("FID, 1 call", "2", "4")] == [
        f"{figures[f'fid, {calls}']:.2f}" for calls in ("1 call", "2 calls", "4 calls")
    ]
    assert row("gs", "training")["4"] == f"{zoo.plan_card('fashion-dit', 'gs-4')['figures']['fid']:.2f}"
    assert row("kd", "distill")["FID, 1 call"] == row("kd", "distill")["cost of a step"] == "–"


def test_figures_of_results(monkeypatch, tmp_path):
    monkeypatch.setattr(result_files, "RESULTS", tmp_path)

    def write(name, content):
        (tmp_path / name).write_text(json.dumps(content))

    calls = {"1": {"fid": 0.111}, "2": {"fid": 0.222}, "4": {"fid": 0.333}}
    old = {"teacher": "fashion-dit", "students": {"dmd2": {"calls": {c: {"fid": 9.0} for c in "124"}}, "kd": {}}}
    write("students-a-2026-01-02.json", old)
    write("students-z-2026-01-01.json", {"teacher": "fashion-dit", "students": {"kd": {"calls": calls}}})
    write("students-b-2026-01-03.json", {"teacher": "fashion-dit", "students": {"dmd2": {"failed": "x"}}})
    assert row("dmd2", "distill")["4"] == "9.00"  # of the newest that has it
    assert row("kd", "distill")["2"] == "0.22"
    cost = {
        "networks": {"student": 1.01, "critic": 2.0}, "averaged": ["student"],
        "ms over the teacher's forward pass": 9.04, "ms over the teacher's step": 3.0, "memory over the teacher's": 2.5,
    }  # fmt: skip
    write("costs-a-2026-01-01.json", {"recipes": {"kd": cost}})
    found = row("kd", "distill")
    assert found["networks in memory"] == "student, critic (2 ×); average; 2.5 × the teacher's memory"
    assert found["cost of a step"] == "9.0 ×; 3.0 × the teacher's step"
    bench = [
        {"family": "few steps", "solvers": ["ddim", "unipc"], "model_calls": 1, "fid": 8.0},
        {"family": "few steps", "solvers": ["unipc"], "model_calls": 1, "fid": 7.5},
        {"family": "students", "solvers": ["unipc"], "model_calls": 1, "fid": 0.1},
    ]
    write("bench-a-2026-01-01.json", {"rows": bench})
    assert row("unipc", "solvers")["FID, 1 call"] == "7.50"
    assert row("ddim", "solvers")["FID, 1 call"] == "8.00"
    caches = [{"name": "euler 50", "seconds": 4.0}, {"name": "fora: interval 3", "seconds": 2.0},
              {"name": "fora: interval 6", "seconds": 1.0}]  # fmt: skip
    write("caches-a-2026-01-01.json", {"rows": caches})
    assert row("fora", "caching")["cost of a step"] == "0.25 to 0.50 ×"
    assert row("auto", "caching")["cost of a step"] == "–"


def test_a_page_without_markers():
    with pytest.raises(ValueError, match="methods:begin"):
        methods_table.page("nothing")
