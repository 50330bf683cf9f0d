import inspect

import pytest

from pyaccel import schedules, solvers

FLOW = schedules.flow()


def test_register_and_names():
    named = [
        "ddim", "ddpm", "deis", "dpm", "dpm_fast", "dpmpp", "dpmpp_sde", "epd", "euler", "euler_ancestral",
        "euler_maruyama", "heun", "ipndm", "ipndm_v", "lms", "pndm", "rho_ab", "rho_rk", "rk4", "unic", "unipc",
        "edm_stochastic", "restart", "sa_solver", "lcm", "tcd", "ctm", "flow_map", "dpm_v3", "dpm_adaptive",
    ]  # fmt: skip
    assert set(solvers.SOLVERS) == set(named)
    assert solvers.from_name("unipc") is solvers.unipc
    with pytest.raises(ValueError, match="did you mean 'unipc'"):
        solvers.from_name("unipcc")


@pytest.mark.parametrize(
    "arguments",
    [{}, {"steps": 4, "times": [1.0, 0.0]}, {"steps": 0}, {"steps": -3}, {"steps": 2.5}, {"times": [1.0, 0.2, 0.5]}],
)
def test_steps_or_times(arguments):
    with pytest.raises(ValueError, match=r"steps|times"):
        solvers.ddim(FLOW, **arguments)


def test_the_schedule_must_be_one():
    with pytest.raises(TypeError, match="schedule"):
        solvers.ddim("flow", 4)


def test_there_must_be_noise_to_start_from():
    with pytest.raises(ValueError, match="times"):
        solvers.ddim(FLOW, times=[0.0])


def test_natural_predictions():
    assert solvers.ddim(FLOW, 2).prediction == "flow"
    assert solvers.ddim(schedules.edm(), 2).prediction == "sample"
    assert solvers.ddim(schedules.vp_linear(), 2).prediction == "epsilon"
    assert solvers.ddim(FLOW, 2, prediction="v").prediction == "v"
    with pytest.raises(ValueError, match="velocity"):
        solvers.ddim(FLOW, 2, prediction="velocity")


def test_documentation_reaches_the_user():
    assert "2302.04867" in inspect.getmodule(solvers.unipc).__doc__ or "UniPC" in solvers.unipc.__doc__
    assert "lower_order_final" in solvers.unipc.__doc__
    assert {"schedule", "steps", "times", "order", "variant"} <= set(inspect.signature(solvers.unipc).parameters)


def test_a_solver_of_ones_own():
    @solvers.solver
    def backward_euler_guess(b, damping: float = 1.0):
        """Euler, damped."""
        x = b.noise()
        for s, t in b.intervals():
            x = b.exponential_step(x, damping * b.predict(x, s), s, t)
        return x

    try:
        assert backward_euler_guess(FLOW, 3, damping=0.5).options["damping"] == 0.5
        assert solvers.from_name("backward_euler_guess") is backward_euler_guess
    finally:
        del solvers.SOLVERS["backward_euler_guess"]
