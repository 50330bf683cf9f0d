"""What a text on the command line means, and how a mistake is answered."""

import pytest

from pyaccel import schedules, solvers
from pyaccel.commands.options import make_schedule, parse_options, parse_value
from pyaccel.solvers.family import make_plan


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-2", -2),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("true", True),
        ("No", False),
        ("none", None),
        ("bh1", "bh1"),
        ("", ""),
        ("[[3, 2, 0.06, 0.3]]", [[3, 2, 0.06, 0.3]]),
    ],
)
def test_values(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_options_are_pairs_given_once():
    assert parse_options(["order=2", "lower-order-final=no", "variant = bh1"]) == {
        "order": 2,
        "lower_order_final": False,
        "variant": "bh1",
    }
    assert parse_options(["x=a=b"]) == {"x": "a=b"}
    for wrong in (["order"], ["=3"]):
        with pytest.raises(ValueError, match="key=value"):
            parse_options(wrong)
    with pytest.raises(ValueError, match="twice"):
        parse_options(["order=2", "order=3"])
    with pytest.raises(ValueError, match="not JSON"):
        parse_options(["restarts=[[3,"])


def test_a_plan_is_the_one_that_python_makes():
    schedule = schedules.flow(2.0)
    plan = make_plan("unipc", schedule, 6, order=2, grid="karras", prediction=None)
    assert plan == solvers.unipc(schedule, 6, order=2, grid="karras")


@pytest.mark.parametrize("name", [n for n, f in solvers.SOLVERS.items() if hasattr(f, "function")])
def test_every_solver_with_a_table_has_one_here(name):
    assert make_plan(name, schedules.flow(), 8, grid=None).calls >= 4


def test_a_solver_without_a_table_says_so():
    with pytest.raises(ValueError, match="chooses its steps while it runs"):
        make_plan("dpm_adaptive", schedules.flow(), 8)


def test_a_mistyped_option_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'order'"):
        make_plan("deis", schedules.flow(), 8, oder=2)
    assert make_plan("unic", schedules.flow(), 8, solver="deis", solver_options={"polynomial": "rho"}).calls == 8


def test_schedules_with_and_without_a_shift():
    assert make_schedule("flow", 3.0).parameters == {"shift": 3.0}
    assert make_schedule("vp_linear").name == "vp_linear"
    with pytest.raises(ValueError, match=r"has no shift.*flow"):
        make_schedule("vp_linear", 3.0)
    with pytest.raises(ValueError, match="did you mean 'flow'"):
        make_schedule("flwo")
    with pytest.raises(ValueError, match="needs its betas"):
        make_schedule("vp_discrete")
