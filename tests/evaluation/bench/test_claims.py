"""Verdicts follow from the numbers: the same claims, judged by made-up rows."""

import pytest

from pyaccel.evaluation.bench.claims import opening, ranking, verdicts

CALLS = [4, 8, 20]


def rows(**errors):
    """Rows from NAME=[RMSE per number of calls], with the names of the bench."""
    names = {"ddim": "DDIM", "two": "DPM-Solver++(2M)", "three": "DPM-Solver++(3M)", "unipc": "UniPC-3 (B2)",
             "heun": "Heun", "tab": "DEIS-tAB3", "tab1": "DEIS-tAB1"}  # fmt: skip
    kinds = {"ddim": "first order", "heun": "singlestep"}
    return [
        {"name": names[n], "kind": kinds.get(n, "multistep"), "calls": CALLS, "rmse": values}
        for n, values in errors.items()
    ]


def words(*args, **errors):
    return [v.word for v in verdicts(CALLS, rows(**errors))]


def test_all_hold_where_the_numbers_say_so():
    found = verdicts(
        CALLS,
        rows(
            ddim=[8, 4, 2],
            two=[6, 3, 1],
            three=[5, 2, 1],
            unipc=[4, 1, 1],
            heun=[9, 5, 1],
            tab=[5, 2, 1],
            tab1=[6, 3, 1],
        ),
    )
    assert [v.word for v in found] == ["reproduced"] * 4


def test_what_happens_beyond_ten_calls_does_not_count():
    assert words(ddim=[8, 4, 1], two=[6, 3, 9], heun=[9, 5, 1])[0] == "reproduced"
    assert words(ddim=[8, 4, 1], two=[6, 3, 9], heun=[9, 5, 1])[3] == "reproduced"


def test_exceptions_are_named_with_their_numbers():
    first, *_ = verdicts(CALLS, rows(ddim=[8, 4, 2], two=[8.5, 3, 1]))
    assert first.word == "partly reproduced"
    assert "1 of 2" in first.detail
    assert "at 4 calls DPM-Solver++(2M) has 8.5, DDIM 8" in first.detail


def test_the_order_of_the_ladder_matters():
    assert words(ddim=[8, 4, 2], two=[6, 3, 1], three=[5, 2, 1], unipc=[9, 9, 1])[1] == "partly reproduced"
    assert words(ddim=[1, 1, 1], two=[2, 2, 1], three=[3, 3, 1], unipc=[4, 4, 1])[1] == "not reproduced"


def test_deis_is_judged_at_four_and_five_calls_only():
    assert words(ddim=[8, 1, 1], tab=[5, 9, 9], tab1=[6, 3, 1])[2] == "reproduced"
    assert words(ddim=[4, 9, 9], tab=[5, 1, 1], tab1=[4, 9, 9])[2] == "not reproduced"


def test_ties_count_as_equal_and_missing_values_do_not_count():
    assert words(ddim=[8, 4, 2], two=[8.1, None, 1])[0] == "reproduced"
    assert words(ddim=[8, 4, 2])[0] == "not measured"
    assert words(ddim=[None, None, 1], two=[1, 1, 1])[0] == "not measured"


def test_ranking_is_by_the_mean_ratio_to_the_best_and_whole_rows_come_first():
    table = rows(ddim=[8, 4, 2], two=[2, 1, 1], heun=[1, None, 1], three=[3, 1, 1])
    assert [row["name"] for row in ranking(CALLS, table)] == ["DPM-Solver++(2M)", "DPM-Solver++(3M)", "DDIM", "Heun"]


def test_the_opening_names_the_best_and_its_gain():
    text = opening(CALLS, rows(ddim=[8, 4, 0.5], two=[2, 5, 1]))
    assert "DPM-Solver++(2M) with 4 (RMSE 2, 4.0× nearer than DDIM) calls" in text
    assert "DDIM with 8 (RMSE 4), 20 (RMSE 0.5) calls" in text
    assert opening(CALLS, rows(ddim=[None] * 3)) == "Nothing was measured."


@pytest.mark.parametrize("table", [[], rows(ddim=[None, None, None])])
def test_nothing_measured_is_no_error(table):
    assert {v.word for v in verdicts(CALLS, table)} == {"not measured"}
    ranking(CALLS, table)
