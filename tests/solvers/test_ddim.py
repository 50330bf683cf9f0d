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
    back = solvers.ddim(S, times=times(400, end=0.02), prediction="sample").sample(model, there)
    assert float((back - sample).abs().mean()) < 0.02


def test_a_deterministic_plan_has_no_draws():
    assert not solvers.ddim(S, 5).stochastic
    assert len(solvers.ddim(S, 5, eta=0.5).draws) == 4  # none at the last step, to sigma = 0


@pytest.mark.parametrize("schedule", [schedules.flow(), schedules.vp_linear()], ids=lambda s: s.name)
def test_inversion_comes_back_with_iterations(schedule):
    def model(x, t):
        return torch.tanh(x) * (1 + t.view(-1, 1)) - 0.3 * x

    data = torch.randn(3, 5, dtype=torch.float64)
    errors = []
    for iterations in (0, 2, 12):
        inverse = solvers.ddim(schedule, 25, inverse=True, iterations=iterations, prediction="v")
        assert inverse.rising
        assert inverse.calls == 25 * (1 + iterations)
        noise = inverse.sample(model, data)
        back = solvers.ddim(schedule, 25, prediction="v").sample(model, noise)
        errors.append(float((back - data).abs().max()))
    assert errors[1] < 0.2 * errors[0]
    assert errors[2] < 1e-4


def test_inversion_is_exact_where_the_prediction_of_the_noise_is_constant():
    schedule, eps = schedules.vp_linear(), torch.randn(4, 3, dtype=torch.float64)
    data = torch.randn(4, 3, dtype=torch.float64)
    noise = solvers.ddim(schedule, 7, inverse=True).sample(lambda x, t: eps, data)
    # As unit noise: what a run from there multiplies by sigma.
    expected = (schedule.alpha(1.0) * data + schedule.sigma(1.0) * eps) / schedule.sigma(1.0)
    torch.testing.assert_close(noise, expected, rtol=1e-10, atol=1e-10)


STABLE_DIFFUSION = schedules.vp_discrete(schedules.scaled_linear_betas())


@pytest.mark.parametrize(
    ("schedule", "options"),
    [(STABLE_DIFFUSION, {}), (STABLE_DIFFUSION, {"start": 0.5}), (schedules.edm(), {}), (schedules.ve(), {}),
     (schedules.flow(), {"start": 0.5}), (schedules.vp_linear(), {"threshold": 3.0})],
    ids=["sd", "sd-to-half", "edm", "ve", "flow-to-half", "threshold"],
)  # fmt: skip
def test_inversion_and_sampling_close_wherever_sigma_ends(schedule, options):
    def model(x, t):
        return 0.7 * torch.tanh(x)  # a prediction of x0, which says nothing of the noise where there is none

    data = 0.3 * torch.randn(3, 5, dtype=torch.float64)
    inverse = solvers.ddim(schedule, 12, inverse=True, iterations=60, prediction="sample", **options)
    assert schedule.sigma(inverse.times[0]) > 0
    forward = solvers.ddim(schedule, times=inverse.times[::-1], prediction="sample")
    torch.testing.assert_close(forward.sample(model, inverse.sample(model, data)), data, rtol=1e-3, atol=1e-3)


def test_times_may_fall_and_inverse_turns_them():
    assert solvers.ddim(S, times=[1.0, 0.4, 0.1], inverse=True).times == (0.1, 0.4, 1.0)


def test_inversion_takes_no_noise():
    with pytest.raises(ValueError, match="rise"):
        solvers.ddim(schedules.flow(), 5, inverse=True, eta=1.0)
    with pytest.raises(ValueError, match="iterations"):
        solvers.ddim(schedules.flow(), 5, iterations=2)
