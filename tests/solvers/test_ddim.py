import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import exact_denoiser, times
from . import loops
from .convergence import slope

S = schedules.vp_linear()


@pytest.mark.parametrize("solver", [solvers.ddim, solvers.euler])
def test_is_equation_12(solver):
    noise, model = torch.randn(20, dtype=torch.float64), exact_denoiser(S)
    plan = solver(S, times=times(7), prediction="sample")
    torch.testing.assert_close(plan.sample(model, noise), loops.ddim(S, times(7), model, noise), rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", [solvers.ddim, solvers.euler])
def test_order_of_convergence(solver):
    assert slope(solver, S) >= 0.7


def test_euler_on_a_flow_is_x_plus_dt_times_u():
    noise, x = torch.randn(4, 3, dtype=torch.float64), None

    def velocity(x, t):
        return torch.sin(3 * x) + t.view(-1, 1)

    x = noise
    for s, t in zip([1.0, 0.6, 0.3], [0.6, 0.3, 0.0], strict=True):
        x = x + (t - s) * velocity(x, torch.full((4,), s, dtype=torch.float64))
    plan = solvers.euler(schedules.flow(), times=[1.0, 0.6, 0.3, 0.0])
    torch.testing.assert_close(plan.sample(velocity, noise), x, rtol=0, atol=1e-14)
