import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import exact_denoiser, times
from . import loops
from .agreement import STEPS, Path, agrees, points
from .convergence import in_log_snr, slope

S = schedules.vp_linear()


@pytest.mark.parametrize("end", [0.02, 0.0])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("solver", [solvers.ddim, solvers.euler])
def test_is_equation_12(solver, steps, end):
    noise, model, grid = points(), exact_denoiser(S), times(steps, end=end)
    plan = solver(S, times=grid, prediction="sample")
    agrees(plan.sample(model, noise), loops.ddim(S, grid, model, noise))


@pytest.mark.parametrize("end", [0.02, 0.0])
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("steps", STEPS)
def test_with_noise_it_is_equation_16(steps, eta, end):
    noise, model, grid, path = points(), exact_denoiser(S), times(steps, end=end), Path(20)
    plan = solvers.ddim(S, times=grid, prediction="sample", eta=eta)
    expected = loops.ddim(S, grid, model, noise, eta, path.draw)
    agrees(plan.sample(model, noise, noise_sampler=path.draw), expected)


@pytest.mark.parametrize("solver", [solvers.ddim, solvers.euler])
def test_order_of_convergence(solver):
    assert 0.7 <= slope(solver, S, grid=in_log_snr(S)) <= 1.5


def test_euler_on_a_flow_is_x_plus_dt_times_u():
    noise = torch.randn(4, 3, dtype=torch.float64)

    def velocity(x, t):
        return torch.sin(3 * x) + t.view(-1, 1)

    x = noise
    for s, t in zip([1.0, 0.6, 0.3], [0.6, 0.3, 0.0], strict=True):
        x = x + (t - s) * velocity(x, torch.full((4,), s, dtype=torch.float64))
    plan = solvers.euler(schedules.flow(), times=[1.0, 0.6, 0.3, 0.0])
    torch.testing.assert_close(plan.sample(velocity, noise), x, rtol=0, atol=1e-14)


def test_inversion_leads_back_to_the_noise():
    """From data to noise with the same ODE: with many steps, where the run began."""
    sample, model = points(), exact_denoiser(S)
    there = solvers.ddim(S, times=times(400, end=0.02)[::-1], prediction="sample").sample(model, sample)
    back = solvers.ddim(S, times=times(400, end=0.02), prediction="sample").sample(model, there / S.sigma(1.0))
    assert float((back - sample).abs().mean()) < 0.02


def test_a_deterministic_plan_has_no_draws():
    assert not solvers.ddim(S, 5).stochastic
    assert len(solvers.ddim(S, 5, eta=0.5).draws) == 4  # none at the last step, to sigma = 0
