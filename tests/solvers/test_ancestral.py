import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import exact_denoiser, times
from . import loops
from .agreement import STEPS, Path, agrees, points
from .moments import check_moments

S = schedules.vp_linear()


def both(solver, loop, grid, **options):
    noise, model, path = points(), exact_denoiser(S), Path(20)
    plan = solver(S, times=grid, prediction="sample", **options)
    agrees(plan.sample(model, noise, noise_sampler=path.draw), loop(S, grid, model, noise, path.draw, **options))


@pytest.mark.parametrize("end", [0.02, 0.0])
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps", STEPS)
def test_ddpm_is_algorithm_2(steps, variance, end):
    both(solvers.ddpm, loops.ddpm, times(steps, end=end), variance=variance)


@pytest.mark.parametrize("end", [0.02, 0.0])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("s_noise", [1.0, 1.003])
@pytest.mark.parametrize("steps", STEPS)
def test_euler_ancestral_is_the_step_in_sigma(steps, eta, s_noise, end):
    both(solvers.euler_ancestral, loops.euler_ancestral, times(steps, end=end), eta=eta, s_noise=s_noise)


def test_more_than_all_of_the_noise_is_all_of_it():
    """eta > 1 would take more variance than there is; k-diffusion caps it."""
    both(solvers.euler_ancestral, loops.euler_ancestral, times(5), eta=1.7, s_noise=1.0)


def test_without_eta_it_is_euler():
    noise, model = points(), exact_denoiser(S)
    plan = solvers.euler_ancestral(S, times=times(6), prediction="sample", eta=0.0)
    draw = Path(20).draw
    agrees(plan.sample(model, noise, noise_sampler=draw), loops.ddim(S, times(6), model, noise))


def test_ddpm_with_the_small_variance_is_ddim_with_eta_1():
    """But for the last step where it does not lead to sigma = 0, at which DDPM adds no noise."""
    noise, model, path = points(), exact_denoiser(S), Path(20)
    plans = [
        solvers.ddpm(S, times=times(6, end=0.0), prediction="sample"),
        solvers.ddim(S, times=times(6, end=0.0), prediction="sample", eta=1.0),
    ]
    a, b = (plan.sample(model, noise, noise_sampler=path.draw) for plan in plans)
    agrees(a, b)


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (solvers.ddpm, {"variance": "small"}),
        (solvers.ddpm, {"variance": "large"}),
        (solvers.euler_ancestral, {"eta": 1.0}),
        (solvers.euler_ancestral, {"eta": 0.5}),
        (solvers.ddim, {"eta": 1.0}),
        (solvers.ddim, {"eta": 0.5}),
    ],
)
def test_the_samples_are_distributed_as_the_data(solver, options):
    check_moments(solver, **options)


@pytest.mark.parametrize("solver", [solvers.ddim, solvers.euler_ancestral])
@pytest.mark.parametrize("eta", [-0.1, float("nan"), float("inf"), "1"])
def test_bad_eta(solver, eta):
    with pytest.raises(ValueError, match="eta"):
        solver(S, 4, eta=eta)


def test_bad_variance():
    with pytest.raises(ValueError, match=r"variance must be one of 'small', 'large'"):
        solvers.ddpm(S, 4, variance="learned")


@pytest.mark.parametrize("schedule", [schedules.flow(), schedules.vp_cosine()], ids=lambda s: s.name)
@pytest.mark.parametrize("solver", [solvers.ddpm, solvers.euler_ancestral])
def test_from_nothing_but_noise_to_data(solver, schedule):
    noise, model = points(200), exact_denoiser(schedule)
    x = solver(schedule, 30, prediction="sample").sample(model, noise, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(x).all()
    assert -2.2 < float(x.min()) < float(x.max()) < 1.6  # the data's components end there
