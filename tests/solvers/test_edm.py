import itertools

import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import exact_denoiser, times
from .agreement import agrees, points
from .loops import edm as loops
from .moments import check_moments

S = schedules.vp_linear()


def denoise_in_ratio(y, rho):
    """x0 from y = x/alpha at sigma/alpha = rho."""
    t = S.time_of_lam(-torch.log(torch.tensor(rho, dtype=torch.float64)))
    return exact_denoiser(S)(S.alpha(t) * y, t.reshape(1))


def handed(draws):
    left = iter(draws)
    return lambda sigma_from, sigma_to: next(left)


def rhos(grid):
    return [float(S.ratio(t)) if S.sigma(t) > 0 else 0.0 for t in grid]


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
@pytest.mark.parametrize("options", [{}, {"churn": 3.0, "s_min": 0.2, "s_max": 3.0, "s_noise": 1.1}, {"churn": 0.0}])
def test_edm_stochastic_is_algorithm_2(steps, options):
    noise, grid = points(), [*times(steps, end=0.05), 0.0]
    draws = [points() for _ in range(20)]
    plan = solvers.edm_stochastic(S, times=grid, prediction="sample", **options)
    chosen = {"churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003, **options}
    y = S.sigma(grid[0]) / S.alpha(grid[0]) * noise
    expected = loops.edm_stochastic(denoise_in_ratio, y, rhos(grid), iter(draws), **chosen)
    more = {"noise_sampler": handed(draws)} if plan.stochastic else {}
    agrees(plan.sample(exact_denoiser(S), noise, **more), expected)


@pytest.mark.parametrize("restarts", [((3, 2, 0.1, 0.5),), ((2, 1, 0.05, 0.3), (4, 3, 0.5, 2.0))])
def test_restart_is_algorithm_1(restarts):
    noise, grid = points(), [*times(12, end=0.02), 0.0]
    draws = [points() for _ in range(20)]
    plan = solvers.restart(S, times=grid, prediction="sample", restarts=restarts)
    y = S.sigma(grid[0]) / S.alpha(grid[0]) * noise
    expected = loops.restart(denoise_in_ratio, y, rhos(grid), iter(draws), restarts, 1.003)
    agrees(plan.sample(exact_denoiser(S), noise, noise_sampler=handed(draws)), expected)
    inner = sum(2 * times_ * (count - 1) for count, times_, _, _ in restarts)
    assert plan.calls == 2 * 13 - 1 + inner


def test_without_noise_it_is_heun():
    noise = points()
    plan = solvers.edm_stochastic(S, 6, churn=0.0, prediction="sample")
    expected = solvers.heun(S, 6, grid="karras", prediction="sample").sample(exact_denoiser(S), noise)
    assert not plan.stochastic
    agrees(plan.sample(exact_denoiser(S), noise), expected)


def test_restart_forgets_errors():
    """From a start that is wrong, more restarts come nearer to the mixture's mean than none."""
    noise = torch.full((20000,), 2.0, dtype=torch.float64)
    results = []
    for k in (1, 12):
        plan = solvers.restart(S, 20, restarts=((4, k, 0.1, 8.0),), prediction="sample", s_noise=1.0)
        x = plan.sample(exact_denoiser(S), noise, generator=torch.Generator().manual_seed(0))
        results.append(abs(float(x.mean()) - 0.12))
    assert results[1] < 0.5 * results[0]


@pytest.mark.parametrize(
    ("solver", "options"),
    [(solvers.edm_stochastic, {"churn": 8.0}), (solvers.edm_stochastic, {"churn": 40.0, "s_min": 0.0}),
     (solvers.restart, {"restarts": ((6, 2, 0.1, 2.0),)})],
)  # fmt: skip
def test_moments(solver, options):
    """Without the inflation of s_noise, adding noise and removing it again leaves the distribution as it is."""
    check_moments(solver, s_noise=1.0, counts=(16, 64), bias=2.5, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("edm_stochastic", {"churn": -1.0}),
        ("edm_stochastic", {"s_min": 2.0, "s_max": 1.0}),
        ("restart", {"restarts": ((1, 1, 0.1, 0.2),)}),
        ("restart", {"restarts": ((3, 1, 0.3, 0.2),)}),
        ("restart", {"restarts": ((3, 1, 0.3),)}),
        ("restart", {"restarts": ((3, 1, 1e-9, 1e-8),)}),
    ],
)
def test_bad_options(name, options):
    with pytest.raises(ValueError, match=name):
        solvers.from_name(name)(S, 8, **options)


def test_grids_default_to_karras():
    grid = solvers.edm_stochastic(schedules.edm(), 5).times
    ratios = [schedules.edm().sigma(t) ** (1 / 7) for t in grid[:-1]]
    gaps = [a - b for a, b in itertools.pairwise(ratios)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-9)


def test_churn_and_restarts_stay_within_a_models_times():
    """A network with a table of a thousand times cannot be asked about more noise than that of its first one."""
    schedule = schedules.vp_discrete(schedules.scaled_linear_betas())
    plan = solvers.edm_stochastic(schedule, 10)
    assert max(call.model_time for stage in plan.stages for call in stage.calls) <= 999
    with pytest.raises(ValueError, match="more noise than vp_discrete has"):
        solvers.restart(schedule, 20, restarts=[(3, 1, 1.0, 100.0)])


@pytest.mark.parametrize("name", ["dpm_v3", "dpm_fast"])
def test_what_does_not_run_backwards_says_so(name):
    with pytest.raises(ValueError, match="from noise to data alone"):
        solvers.from_name(name)(schedules.vp_linear(), 5, inverse=True)
    for steps in (0, -5, True, 7.0, "a"):
        with pytest.raises(ValueError, match="steps must be"):
            solvers.dpm_fast(schedules.vp_linear(), steps)
