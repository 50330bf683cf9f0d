"""The list of solvers: all of them, whole, in a table and as JSON."""

import json

from pyaccel.commands.solvers import GROUPS, group_of
from pyaccel.solvers import SOLVERS


def test_json_has_every_solver_with_every_fact(pyaccel):
    rows = {row["name"]: row for row in json.loads(pyaccel("solvers", "--json").stdout)}
    assert list(rows) == list(SOLVERS)
    for name, row in rows.items():
        about = SOLVERS[name].about
        assert (row["order"], row["calls_per_step"], row["paper"]) == (about.order, about.calls, about.paper)
        assert (row["stochastic"], row["students"]) == (about.stochastic, about.students)
        assert row["options"] == list(about.options)
        assert row["summary"]
        assert "``" not in row["summary"]
        assert ":func:" not in row["summary"]


def test_piped_each_solver_is_one_whole_line(pyaccel):
    rows = json.loads(pyaccel("solvers", "--json").stdout)
    lines = pyaccel("solvers").stdout.splitlines()
    heads = [next(i for i, line in enumerate(lines) if line.strip() == group) for group in GROUPS]
    assert heads == sorted(heads)
    for row in rows:
        (place,) = [i for i, line in enumerate(lines) if line.split() and line.split()[0] == row["name"]]
        for key in ("summary", "order", "calls_per_step", "paper"):
            assert row[key] in lines[place]
        assert max(head for head in heads if head < place) == heads[GROUPS.index(group_of(row))]
    ddim = next(line for line in lines if line.split()[:1] == ["ddim"])
    assert " with eta " in ddim


def test_groups():
    assert group_of({"stochastic": False, "students": False}) == "solvers of the ODE"
    assert group_of({"stochastic": None, "students": False}) == "solvers of the ODE"
    assert group_of({"stochastic": True, "students": False}) == "solvers of the SDE"
    assert group_of({"stochastic": True, "students": True}) == "few-step students"
