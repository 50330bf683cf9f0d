"""The compared solvers: deterministic, no students, and each with as many steps as its calls allow."""

import pytest

from pyaccel import schedules, solvers
from pyaccel.evaluation.bench.variants import VARIANTS, chosen, plan_within


@pytest.mark.parametrize("schedule", [schedules.flow(), schedules.vp_linear(), schedules.edm()], ids=lambda s: s.name)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_plans_use_the_calls_that_they_may(variant, schedule):
    make = solvers.from_name(variant.solver)
    assert not make.about.students
    for calls in (4, 5, 10):
        plan = plan_within(variant, schedule, calls)
        assert plan.calls <= calls
        assert not plan.stochastic
        assert plan.times == tuple(plan.times[0] * (1 - i / plan.steps) for i in range(plan.steps + 1)) or all(
            abs(a - plan.times[0] * (1 - i / plan.steps)) < 1e-12 for i, a in enumerate(plan.times)
        )
        if variant.kind == "multistep" and variant.solver != "pndm":
            assert plan.calls == plan.steps == calls
        assert all(make(schedule, n, grid="uniform", **variant.options).calls > calls for n in (calls + 5, calls + 8))


def test_a_solver_that_cannot_make_one_step_is_left_out():
    rk4 = chosen(["RK4"])[0]
    assert plan_within(rk4, schedules.vp_linear(), 1).steps == 1  # the last step, to sigma = 0, is Euler's
    assert plan_within(rk4, schedules.vp_linear(), 4).calls == 1


def test_variants_by_name_and_by_solver():
    assert chosen(None) == VARIANTS
    assert [v.name for v in chosen(["heun", "DDIM"])] == ["DDIM", "Heun"]
    assert {v.solver for v in chosen(["unipc"])} == {"unipc"}
    assert len(chosen(["unipc"])) == 7
    assert len({v.name for v in VARIANTS}) == len(VARIANTS)
    with pytest.raises(ValueError, match="did you mean 'heun'"):
        chosen(["huen"])
