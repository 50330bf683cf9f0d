import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import exact_denoiser, times
from .agreement import Path, agrees, points
from .convergence import in_log_snr, slope
from .loops.sa_solver import sa_solver

S = schedules.vp_linear()


def model(x, t):
    return exact_denoiser(S)(x, torch.as_tensor(t, dtype=torch.float64).reshape(-1))


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
@pytest.mark.parametrize(("predictor", "corrector"), [(1, 0), (1, 1), (2, 2), (3, 4), (4, 3), (3, 0)])
@pytest.mark.parametrize("variant", ["few_steps", "exact"])
@pytest.mark.parametrize("lower", [True, False])
def test_is_algorithm_1(steps, predictor, corrector, variant, lower):
    noise, path = points(), Path(20)
    options = {"predictor": predictor, "corrector": corrector, "variant": variant, "lower_order_final": lower}
    plan = solvers.sa_solver(S, times=times(steps), prediction="sample", tau=0.8, **options)
    expected = sa_solver(
        S, times(steps), model, noise, lambda s, t: path.draw(S.ratio(s), S.ratio(t)),
        tau=lambda t: 0.8 if 0.2 <= t <= 0.8 else 0.0, **options,
    )  # fmt: skip
    more = {"noise_sampler": path.draw} if plan.stochastic else {}
    agrees(plan.sample(exact_denoiser(S), noise, **more), expected)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_without_noise(order):
    found = slope(solvers.sa_solver, S, predictor=order, corrector=0, tau=0.0, variant="exact")
    assert order - 0.3 <= found <= order + 1.0


def test_the_corrector_adds_an_order():
    options = {"predictor": 2, "tau": 0.0, "variant": "exact", "grid": in_log_snr(S)}
    assert (
        slope(solvers.sa_solver, S, corrector=3, **options) > slope(solvers.sa_solver, S, corrector=0, **options) + 0.5
    )


def test_moments():
    noise = torch.randn(100_000, dtype=torch.float64)
    plan = solvers.sa_solver(S, 100, tau=1.0, interval=(0.0, 1.0), prediction="sample")
    x = plan.sample(exact_denoiser(S), noise, seed=0)
    error = float(x.std()) / len(x) ** 0.5
    assert abs(float(x.mean()) - 0.12) < 4 * error + 0.004
    assert float(x.var()) == pytest.approx(0.5926, abs=0.015)


def test_predictor_and_corrector_share_their_noise():
    plan = solvers.sa_solver(S, 6, tau=1.0, interval=(0.0, 1.0))
    uses = [d for stage in plan.stages for d in stage.draws] + [d for row in plan.start for d in row.noise]
    assert len(plan.draws) == 5
    assert max(uses.count(d) for d in range(5)) >= 1
    assert plan.registers <= 4


def test_beside_diffusers(monkeypatch):
    from . import schedulers

    steps, x = 10, schedulers.noises((2, 3, 4), 1)[0]
    drawn = schedulers.noises((2, 3, 4))
    with schedulers.in_float64(monkeypatch, schedulers.diffusers.SASolverScheduler, drawn):
        scheduler = schedulers.trained("SASolverScheduler", timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
        grid = [*((float(n) + 1) / schedulers.N for n in scheduler.timesteps), 0.0]
        sigmas = [float(s) for s in scheduler.sigmas]
        tau = scheduler.tau_func
        expected = schedulers.trajectory(scheduler, schedulers.S.sigma(grid[0]) * x)
    if sigmas[-1] != 0.0:
        grid[-1] = float(schedulers.S.time_of_ratio(sigmas[-1]))
    # They draw noise at every step, we where tau is not 0.
    used = [d for d, t in zip(drawn, grid, strict=False) if tau(t * schedulers.N - 1)]
    plan = solvers.sa_solver(schedulers.S, times=grid, tau=lambda t: float(tau(t * schedulers.N - 1)))
    got = plan.sample(schedulers.network, x, noise_sampler=schedulers.sampler(used))
    agrees(got, expected, 1e-5)


@pytest.mark.parametrize("options", [{"predictor": 0}, {"corrector": 7}, {"variant": "fast"}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="sa_solver"):
        solvers.sa_solver(S, 4, **options)
