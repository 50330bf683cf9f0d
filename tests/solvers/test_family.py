import inspect

import pytest

from pyaccel import schedules, solvers

FLOW = schedules.flow()


def test_register_and_names():
    named = [
        "amed", "ddim", "ddpm", "deis", "dpm", "dpm_fast", "dpmpp", "dpmpp_sde", "epd", "euler", "euler_ancestral",
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


@pytest.mark.parametrize("times", [5, "abc", [1.0, None]])
def test_times_must_be_numbers(times):
    with pytest.raises(TypeError, match="times must be a list of numbers"):
        solvers.ddim(FLOW, times=times)


@pytest.mark.parametrize("beside", [{"grid": "karras"}, {"start": 0.5}, {"end": 0.1}, {"final": "minimum"}])
def test_nothing_is_said_of_a_grid_beside_times(beside):
    with pytest.raises(ValueError, match=f"{next(iter(beside))} cannot be given beside times="):
        solvers.ddim(FLOW, times=[1.0, 0.0], **beside)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("dpmpp", {"order": 2.0}, ValueError),
        ("dpmpp", {"threshold": True}, TypeError),
        ("dpmpp", {"threshold": float("nan")}, ValueError),
        ("dpmpp_sde", {"s_noise": float("nan")}, ValueError),
        ("euler_ancestral", {"s_noise": "a"}, ValueError),
        ("sa_solver", {"tau": float("nan")}, ValueError),
        ("sa_solver", {"interval": (0.8, 0.2)}, ValueError),
        ("sa_solver", {"interval": (0.8,)}, ValueError),
        ("tcd", {"gamma": "a"}, ValueError),
        ("restart", {"restarts": [(3.5, 2, 0.06, 0.3)]}, ValueError),
    ],
)
def test_options_that_mean_nothing(name, options, error):
    with pytest.raises(error, match=f"{name}.*{'|'.join(options)}"):
        solvers.from_name(name)(FLOW, 4, **options)


def test_the_interval_of_sa_solver_is_in_sigma_for_edm():
    plan = solvers.sa_solver(schedules.edm(), 20)
    for stage in plan.stages[:-1]:
        added = max((abs(c) for row in stage.rows for c in row.noise.values()), default=0.0)
        assert (added > 0) == (0.05 <= stage.calls[0].sigma <= 1.0)


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
