"""``pyaccel bench solvers`` hands its options on, prints the table and the verdicts, and answers mistakes in a line."""

import json

from pyaccel.evaluation import student_bench
from pyaccel.evaluation.student_bench.variants import CacheChoice


def test_measures_and_prints(pyaccel, tmp_path):
    arguments = ("bench", "solvers", "--calls", "4,2", "--count", 2, "--solvers", "ddim,unipc", "--quick", "--out", "b")
    result = pyaccel(*arguments, "--no-progress")
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    assert results["calls"] == [2, 4]
    assert results["settings"]["images"] == 2
    for row in results["models"]["fashion-dit"]["rows"]:
        assert row["name"] in result.stdout
        assert f"{row['rmse'][1]:.4f}" in result.stdout
    assert "reproduced" in result.stdout
    assert "report: b/report.html" in result.stdout


def test_mistakes(mistake):
    mistake("--calls", "bench", "solvers", "--calls", "4,x")
    mistake("from 1 on", "bench", "solvers", "--calls", "0,4")
    mistake("did you mean 'unipc'", "bench", "solvers", "--solvers", "ddim,unipcc")
    mistake("did you mean 'karras'", "bench", "solvers", "--grid", "karas")
    mistake("--model", "bench", "solvers", "--model", "fashion")
    mistake("solver", "bench", "solver")


def test_help_names_what_there_is(pyaccel):
    assert "solvers" in pyaccel("bench", "--help").stdout
    text = pyaccel("bench", "solvers", "--help").stdout
    for option in ("--model", "--calls", "--count", "--grid", "--solvers", "--quick", "--resume"):
        assert option in text


def test_students(pyaccel, mistake, monkeypatch, tmp_path):
    asked = []

    def run(folder, model, **options):
        asked.append((folder, model, options))
        row = {"name": "x, 2 calls", "model_calls": 2, "fid": 1.25, "note": "FID +1 % against y"}
        return {"title": "t", "rows": [row]}

    monkeypatch.setattr(student_bench, "run", run)
    result = pyaccel("bench", "students", "--calls", "4,2", "--students", "a.safetensors, b", "--plan", "b=p.json",
                     "--plan", "b=q.json", "--cache", "fora", "-c", "interval=3", "--cache-calls", "8,4", "--count", 9,
                     "--out", "o", "--resume")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "x, 2 calls: FID +1 % against y" in result.stdout
    ((folder, model, options),) = asked
    assert (str(folder), model, options["calls"], options["students"]) == (
        "o", "fashion-dit", [2, 4], ["a.safetensors", "b"],
    )  # fmt: skip
    assert options["plans"] == {"b": ["p.json", "q.json"]}
    assert options["cache"] == CacheChoice("fora", (4, 8), {"interval": 3})
    assert (options["count"], options["resume"], options["only"], options["device"]) == (9, True, None, "cpu")
    pyaccel("bench", "students", "--cache", "none")
    assert asked[-1][2]["cache"] is None
    pyaccel("bench", "students")
    assert asked[-1][2]["cache"] == CacheChoice()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    mistake("STUDENT=FILE.json", "bench", "students", "--plan", "p.json")
    mistake("--cache-calls must be whole numbers", "bench", "students", "--cache-calls", "x")
    mistake("did you mean 'fora'", "bench", "students", "--cache", "foraa")
    mistake("is no student of fashion-unet", "bench", "students", "--model", "fashion-unet", "--students",
            "fashion-dit-dmd2")  # fmt: skip
