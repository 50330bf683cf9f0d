"""``pyaccel bench solvers`` hands its options on, prints the table and the verdicts, and answers mistakes in a line."""

import json


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
