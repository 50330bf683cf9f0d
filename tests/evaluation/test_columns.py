"""What a column shows, and which family a row belongs to."""

import math

import pytest

from pyaccel.evaluation.columns import BY_KEY, baseline_of, checked, family


def row(name, calls, full):
    return {"name": name, "model_calls": calls, "full_calls": full}


def test_families_follow_from_the_calls():
    euler, unipc, cached = row("e", 50, 50), row("u", 8, 8), row("c", 20, 6)
    assert [family(euler, baseline=True), family(unipc), family(cached)] == ["baseline", "few steps", "caching"]
    assert family({**unipc, "family": "students"}) == "students"
    assert family({"name": "bare"}) == "few steps"


def test_missing_values_are_not_numbers():
    fid = BY_KEY["fid"]
    for nothing in (None, math.nan, math.inf, "n/a", True):
        assert fid.value({"fid": nothing}) is None
        assert fid.cell({"fid": nothing}) == "–"


def test_the_best_value_follows_the_direction():
    rows = [{"fid": 2.0, "recall": 0.5}, {"fid": 1.0, "recall": 0.7}, {}]
    assert BY_KEY["fid"].best(rows) == BY_KEY["fid"].cell(rows[1])
    assert BY_KEY["recall"].best(rows) == BY_KEY["recall"].cell(rows[1])
    assert BY_KEY["fid"].best(rows[:1]) is None
    assert BY_KEY["seconds"].ratio({"seconds": 1.0}, {"seconds": 4.0}) in (None, 0.25)


def test_rows_need_names():
    with pytest.raises(ValueError, match="at least one row"):
        checked({"rows": []})
    with pytest.raises(ValueError, match=r"row 1 .* no name"):
        checked({"rows": [{"name": "a"}, {"fid": 1}]})


def test_the_baseline_is_the_first_row_or_the_one_that_is_named():
    rows = [{"name": "a"}, {"name": "b"}]
    assert baseline_of({"rows": rows}) is rows[0]
    assert baseline_of({"rows": rows, "baseline": "b"}) is rows[1]
    with pytest.raises(ValueError, match=r"'c' is none of the rows \['a', 'b'\]"):
        baseline_of({"rows": rows, "baseline": "c"})
