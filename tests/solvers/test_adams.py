import pytest

from pyaccel import schedules, solvers

from ..mixture import exact_denoiser, times
from . import loops
from .agreement import STEPS, agrees, points
from .convergence import in_log_snr, in_ratio, slope

S = schedules.vp_linear()
MILD = {"start": 0.5, "end": 0.05}  # where sigma/alpha falls from 3.4 to 0.17: equal steps in it make sense


def beta(t):
    return 0.1 + 19.9 * t


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("polynomial", ["t", "rho", "log_rho"])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("steps", STEPS)
def test_deis_is_equation_15(steps, order, polynomial, lower):
    noise, model = points(), exact_denoiser(S)
    options = {"order": order, "polynomial": polynomial, "lower_order_final": lower}
    plan = solvers.deis(S, times=times(steps), prediction="sample", **options)
    expected = loops.deis(S, times(steps), model, noise, order, polynomial, lower, beta)
    # The loop's own quadrature, over time and not over rho, has an error of 1e-10 in the steep first step.
    agrees(plan.sample(model, noise), expected, 1e-10 if polynomial != "t" else 1e-9)


@pytest.mark.parametrize("steps", STEPS)
def test_deis_ends_at_sigma_0(steps):
    noise, model, grid = points(), exact_denoiser(S), times(steps, end=0.0)
    plan = solvers.deis(S, times=grid, prediction="sample", polynomial="rho", lower_order_final=False)
    agrees(plan.sample(model, noise), loops.deis(S, grid, model, noise, 3, "rho", False))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", STEPS)
def test_rho_ab_is_deis_in_rho(steps, order):
    noise, model = points(), exact_denoiser(S)
    plan = solvers.rho_ab(S, times=times(steps), prediction="sample", order=order)
    agrees(plan.sample(model, noise), loops.deis(S, times(steps), model, noise, order, "rho", True))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("end", [0.02, 0.0])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("solver", [solvers.lms, solvers.ipndm_v])
def test_lms_integrates_polynomials_in_sigma(solver, steps, order, end):
    noise, model, grid = points(), exact_denoiser(S), times(steps, end=end)
    plan = solver(S, times=grid, prediction="sample", order=order)
    agrees(plan.sample(model, noise), loops.lms(S, grid, model, noise, order))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", STEPS)
def test_ipndm_is_equation_38(steps, order):
    noise, model = points(), exact_denoiser(S)
    plan = solvers.ipndm(S, times=times(steps), prediction="sample", order=order)
    agrees(plan.sample(model, noise), loops.pndm(S, times(steps), model, noise, "none", order))


@pytest.mark.parametrize("warmup", ["prk", "plms"])
@pytest.mark.parametrize("steps", STEPS)
def test_pndm_is_algorithm_2(steps, warmup):
    noise, model = points(), exact_denoiser(S)
    plan = solvers.pndm(S, times=times(steps), prediction="sample", warmup=warmup)
    agrees(plan.sample(model, noise), loops.pndm(S, times(steps), model, noise, warmup))


def test_pndm_counts_its_calls():
    assert solvers.pndm(S, times=times(9), warmup="prk").calls == 3 * 4 + 6
    assert solvers.pndm(S, times=times(9), warmup="plms").calls == 2 + 8


# From t = 1 the first steps hardly move the sample, so that the lower order of their start does not show.
@pytest.mark.parametrize("polynomial", ["t", "rho", "log_rho"])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_order_of_deis(order, polynomial):
    grid = in_log_snr(S) if polynomial == "log_rho" else times
    assert order + 0.7 <= slope(solvers.deis, S, grid=grid, order=order, polynomial=polynomial) <= order + 2.0


@pytest.mark.parametrize("solver", [solvers.lms, solvers.ipndm_v])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_order_of_lms(solver, order):
    assert order - 0.3 <= slope(solver, S, order=order) <= order + 1.0


@pytest.mark.parametrize("order", [2, 3, 4])
def test_a_start_by_euler_limits_every_order_to_two(order):
    """Where the first step matters, its error of h² stays: why a low-order start is for grids that begin in noise."""
    assert 1.7 <= slope(solvers.lms, S, counts=(80, 160, 320, 640), order=order, **MILD) <= 2.5


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_order_of_ipndm_where_steps_are_equal(order):
    assert order - 0.4 <= slope(solvers.ipndm, S, grid=in_ratio(S), order=order, **MILD) <= order + 1.0


@pytest.mark.parametrize("warmup", ["prk", "plms"])
def test_order_of_pndm_where_steps_are_equal(warmup):
    assert 3.6 <= slope(solvers.pndm, S, grid=in_ratio(S), warmup=warmup, **MILD) <= 4.5


def test_ipndm_is_of_second_order_where_steps_differ():
    assert 1.7 <= slope(solvers.ipndm, S, grid=in_log_snr(S), order=4) <= 2.4


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (solvers.deis, {"order": 4}),
        (solvers.deis, {"polynomial": "sigma"}),
        (solvers.lms, {"order": 0}),
        (solvers.pndm, {"warmup": "rk"}),
        (solvers.rho_ab, {"order": True}),
    ],
)
def test_bad_options(solver, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}"):
        solver(S, 4, **options)
