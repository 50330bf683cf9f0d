import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import exact_denoiser, times
from . import loops
from .agreement import STEPS, Path, agrees, points
from .convergence import slope
from .moments import check_moments

S = schedules.vp_linear()


def beta(t):
    return 0.1 + 19.9 * t


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", STEPS)
def test_is_equation_6(steps, eta):
    noise, model, path = points(), exact_denoiser(S), Path(20)
    plan = solvers.euler_maruyama(S, times=times(steps), prediction="sample", eta=eta)
    expected = loops.euler_maruyama(beta, S, times(steps), model, noise, path.draw, eta)
    agrees(plan.sample(model, noise, noise_sampler=path.draw), expected)


def test_without_noise_it_solves_the_probability_flow():
    assert 0.7 <= slope(solvers.euler_maruyama, S, eta=0.0) <= 1.5


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_samples_are_distributed_as_the_data(eta):
    check_moments(solvers.euler_maruyama, counts=(50, 200), bias=1.5, samples=20_000, eta=eta)


@pytest.mark.parametrize("schedule", [schedules.flow(), schedules.vp_cosine()], ids=lambda s: s.name)
def test_starts_where_log_snr_is_finite(schedule):
    plan = solvers.euler_maruyama(schedule, 50)
    assert plan.times[0] == schedule.t_max
    with pytest.raises(ValueError, match="finite log-SNR"):
        solvers.euler_maruyama(schedule, times=[1.0, 0.5, 0.0])


@pytest.mark.parametrize("eta", [-1.0, float("nan")])
def test_bad_eta(eta):
    with pytest.raises(ValueError, match="eta"):
        solvers.euler_maruyama(S, 4, eta=eta)


def test_noise_is_not_added_at_the_last_step():
    plan = solvers.euler_maruyama(S, 5)
    assert len(plan.draws) == 4
    assert plan.stochastic
    assert not solvers.euler_maruyama(S, 5, eta=0.0).stochastic
    assert torch.isfinite(plan.sample(lambda x, t: x, torch.randn(3), generator=torch.Generator())).all()
