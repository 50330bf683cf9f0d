import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import exact_denoiser, times
from . import loops
from .convergence import slope

S = schedules.vp_linear()


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_2m_is_algorithm_2(lower, steps):
    noise, model = torch.randn(20, dtype=torch.float64), exact_denoiser(S)
    plan = solvers.dpmpp(S, times=times(steps), prediction="sample", lower_order_final=lower)
    expected = loops.dpmpp_2m(S, times(steps), model, noise, lower)
    torch.testing.assert_close(plan.sample(model, noise), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 12])
def test_3m_as_published(steps):
    noise, model = torch.randn(20, dtype=torch.float64), exact_denoiser(S)
    plan = solvers.dpmpp(S, times=times(steps), order=3, prediction="sample", lower_order_final=False)
    torch.testing.assert_close(
        plan.sample(model, noise), loops.dpmpp_3m(S, times(steps), model, noise), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize(
    ("options", "order"),
    [({"order": 1}, 1), ({"order": 2}, 2), ({"order": 3}, 2), ({"order": 3, "variant": "exact"}, 3)],
)
def test_order_of_convergence(options, order):
    assert slope(solvers.dpmpp, S, **options) >= order - 0.3


def test_published_third_order_is_only_of_second():
    assert slope(solvers.dpmpp, S, order=3) < 2.5


def test_history_is_two_registers():
    assert solvers.dpmpp(S, 10).registers == 2
    assert solvers.dpmpp(S, 10, order=3).registers == 3


def test_from_pure_noise_to_data_on_a_flow():
    flow, noise = schedules.flow(), torch.randn(50, dtype=torch.float64)
    model = exact_denoiser(flow)
    fine = solvers.dpmpp(flow, 400, prediction="sample").sample(model, noise)
    coarse = solvers.dpmpp(flow, 40, prediction="sample").sample(model, noise)
    assert torch.isfinite(coarse).all()
    assert float((fine - coarse).abs().mean()) < 0.02


@pytest.mark.parametrize("options", [{"order": 0}, {"order": 4}, {"order": True}, {"variant": "exakt"}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="dpmpp"):
        solvers.dpmpp(S, 4, **options)
