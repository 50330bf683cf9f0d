import math

import pytest

from pyaccel import schedules, solvers

from ..mixture import at, exact_denoiser, times
from . import loops
from .agreement import STEPS, agrees, points
from .convergence import in_log_snr, slope
from .loops import runge_kutta

S, FLOW = schedules.vp_linear(), schedules.flow()
IN_RATIO = [
    (solvers.heun, {}, runge_kutta.heun, 2),
    (solvers.rk4, {}, runge_kutta.rk4, 4),
    (solvers.rho_rk, {"order": 2}, runge_kutta.heun, 2),
    (solvers.rho_rk, {"order": 2, "variant": "midpoint"}, runge_kutta.midpoint, 2),
    (solvers.rho_rk, {"order": 3}, runge_kutta.kutta3, 3),
    (solvers.rho_rk, {"order": 4}, runge_kutta.rk4, 4),
]
IDS = [f"{f.__name__}-{'-'.join(map(str, o.values()))}" for f, o, *_ in IN_RATIO]


@pytest.mark.parametrize(("solver", "options", "step", "order"), IN_RATIO, ids=IDS)
@pytest.mark.parametrize("end", [0.02, 0.0])
@pytest.mark.parametrize("steps", STEPS)
def test_is_the_method_in_sigma_over_alpha(solver, options, step, order, steps, end):
    noise, model, grid = points(), exact_denoiser(S), times(steps, end=end)
    plan = solver(S, times=grid, prediction="sample", **options)
    agrees(plan.sample(model, noise), loops.runge_kutta_in_ratio(S, grid, model, noise, step))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", STEPS)
def test_epd_is_gauss_quadrature_reached_by_euler(steps, count):
    noise, model, grid = points(), exact_denoiser(S), times(steps, end=0.0)
    plan = solvers.epd(S, times=grid, prediction="sample", points=count)
    agrees(plan.sample(model, noise), loops.epd(S, grid, model, noise, count))


def test_epd_makes_the_calls_of_a_step_at_once():
    plan = solvers.epd(S, times=times(4), points=3)
    assert plan.calls == 4 * (1 + 3)
    assert [len(stage.calls) for stage in plan.stages] == [1, 3] * 4


@pytest.mark.parametrize(("solver", "step"), [(solvers.heun, runge_kutta.heun), (solvers.rk4, runge_kutta.rk4)])
@pytest.mark.parametrize("end", [0.02, 0.0])
@pytest.mark.parametrize("steps", STEPS)
def test_is_the_method_in_time(solver, step, steps, end):
    """On dx/dt = −beta/2·(x + score) (Song et al. 2021, eq. 13)."""
    noise, model, grid = points(), exact_denoiser(S), times(steps, end=end)

    def f(x, t):
        score = (S.alpha(t) * model(x, at(t)) - x) / S.sigma(t) ** 2
        return -0.5 * (0.1 + 19.9 * t) * (x + score)

    plan = solver(S, times=grid, prediction="sample", ode="time")
    expected = loops.runge_kutta_in_time(f, S.sigma(1.0) * noise, grid, step)
    agrees(plan.sample(model, noise), expected)


@pytest.mark.parametrize(("solver", "step"), [(solvers.heun, runge_kutta.heun), (solvers.rk4, runge_kutta.rk4)])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", STEPS)
def test_is_the_method_in_sigma_on_a_flow(solver, step, steps, shift):
    """dx/ds = u, from pure noise to data."""
    flow, noise = schedules.flow(shift), points()

    def u(x, s):
        return (x**3).sin() + math.sqrt(float(s))

    plan = solver(flow, steps, ode="time")
    grid = [shift * t / (1 + (shift - 1) * t) for t in times(steps, end=0.0)]
    expected = loops.runge_kutta_in_time(u, noise, grid, step)
    agrees(plan.sample(lambda x, t: u(x, t[0]), noise), expected)


@pytest.mark.parametrize("ode", ["edm", "time"])
@pytest.mark.parametrize(("solver", "options", "step", "order"), IN_RATIO, ids=IDS)
def test_order_of_convergence(solver, options, step, order, ode):
    if solver is not solvers.rho_rk:
        options = {**options, "ode": ode}
    elif ode == "time":
        pytest.skip("rho_rk is in rho")
    assert order - 0.3 <= slope(solver, S, grid=in_log_snr(S), **options) <= order + 1.0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_order_of_epd(count):
    """Points reached by Euler's step make it of second order, whatever the quadrature."""
    assert 1.7 <= slope(solvers.epd, S, grid=in_log_snr(S), points=count) <= 2.5


@pytest.mark.parametrize(
    ("solver", "options"),
    [(solvers.heun, {"ode": "rho"}), (solvers.rho_rk, {"order": 5}), (solvers.epd, {"points": 0})],
)
def test_bad_options(solver, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        solver(S, 4, **options)
