import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import exact_denoiser, times
from . import loops
from .agreement import STEPS, Path, agrees, points
from .convergence import in_log_snr, slope
from .moments import check_moments

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


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize("variant", ["published", "exact"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("solver", "form"), [(solvers.dpmpp, "sample"), (solvers.dpm, "epsilon")])
def test_singlestep_is_algorithm_1(solver, form, steps, order, variant, correction, lower):
    noise, model = points(), exact_denoiser(S)
    options = {"order": order, "lower_order_final": lower, "correction": correction, "variant": variant}
    plan = solver(S, times=times(steps), prediction="sample", method="singlestep", **options)
    expected = loops.dpm_singlestep(S, times(steps), model, noise, form=form, **options)
    agrees(plan.sample(model, noise), expected)
    if not lower:
        assert plan.calls == order * steps


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize("variant", ["published", "exact"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", STEPS)
def test_multistep_over_the_noise(steps, order, variant, correction, lower):
    noise, model = points(), exact_denoiser(S)
    options = {"order": order, "lower_order_final": lower, "correction": correction, "variant": variant}
    plan = solvers.dpm(S, times=times(steps), prediction="sample", method="multistep", **options)
    agrees(plan.sample(model, noise), loops.dpm_multistep(S, times(steps), model, noise, **options))


@pytest.mark.parametrize("form", ["sample", "epsilon"])
@pytest.mark.parametrize("calls", [3, 4, 5, 9, 10])
def test_dpm_fast_spends_its_calls(calls, form):
    noise, model = points(), exact_denoiser(S)
    plan = solvers.dpm_fast(S, calls, prediction="sample", form=form, end=0.02)
    assert plan.calls == calls
    agrees(plan.sample(model, noise), loops.dpm_fast(S, 1.0, 0.02, model, noise, calls, form))


@pytest.mark.parametrize("calls", range(1, 13))
@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
@pytest.mark.parametrize(
    "schedule", [S, schedules.flow(), schedules.vp_cosine(), schedules.trigflow()], ids=lambda s: s.name
)
def test_dpm_fast_makes_just_as_many_calls_as_asked(calls, prediction, schedule):
    """Also with one or both ends of log-SNR infinite, each of which takes a call of its own."""
    assert solvers.dpm_fast(schedule, calls, prediction=prediction).calls == calls


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize(("eta", "s_noise"), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.01)])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("end", [0.02, 0.0])
def test_sde_multistep(steps, order, eta, s_noise, correction, lower, end):
    noise, model, path, grid = points(), exact_denoiser(S), Path(20), times(steps, end=end)
    options = {"order": order, "eta": eta, "s_noise": s_noise, "correction": correction, "lower_order_final": lower}
    plan = solvers.dpmpp_sde(S, times=grid, prediction="sample", **options)
    expected = loops.sde_multistep(S, grid, model, noise, path.draw, **options)
    agrees(plan.sample(model, noise, noise_sampler=path.draw), expected)


@pytest.mark.parametrize(("eta", "s_noise"), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.01), (1.5, 1.0)])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("end", [0.02, 0.0])
def test_sde_singlestep_follows_one_path(steps, eta, s_noise, end):
    noise, model, path, grid = points(), exact_denoiser(S), Path(20), times(steps, end=end)
    options = {"eta": eta, "s_noise": s_noise}
    plan = solvers.dpmpp_sde(S, times=grid, prediction="sample", method="singlestep", **options)
    expected = loops.sde_singlestep(S, grid, model, noise, path, **options)
    agrees(plan.sample(model, noise, noise_sampler=path.draw), expected)


MULTISTEP = [
    (solvers.dpmpp, {"order": 1}, 1),
    (solvers.dpmpp, {"order": 2}, 2),
    (solvers.dpmpp, {"order": 2, "correction": "heun"}, 2),
    (solvers.dpmpp, {"order": 3}, 2),
    (solvers.dpmpp, {"order": 3, "variant": "exact"}, 3),
    (solvers.dpm, {"order": 2, "method": "multistep"}, 2),
    (solvers.dpm, {"order": 3, "method": "multistep"}, 2),
    (solvers.dpm, {"order": 3, "method": "multistep", "variant": "exact"}, 3),
]
SINGLESTEP = [
    (solver, {"order": order, "method": "singlestep", **more}, order)
    for solver in (solvers.dpmpp, solvers.dpm)
    for order, more in [(1, {}), (2, {}), (2, {"correction": "heun"}), (3, {}), (3, {"variant": "exact"})]
]
NOISELESS = [(solvers.dpmpp_sde, {"order": 2, "eta": 0.0}, 2)]


@pytest.mark.parametrize(("solver", "options", "order"), [*MULTISTEP, *SINGLESTEP, *NOISELESS])
def test_order_of_convergence(solver, options, order):
    assert order - 0.3 <= slope(solver, S, grid=in_log_snr(S), **options) <= order + 0.5


def test_order_of_dpm_fast():
    def fast(schedule, times, **options):
        return solvers.dpm_fast(schedule, len(times) - 1, end=times[-1], **options)

    # One step of order 2 and one of order 1 at the end leave an error of h².
    assert 1.7 <= slope(fast, S, counts=(30, 60, 120, 240)) <= 2.5


@pytest.mark.parametrize(
    "options",
    [{"order": 1}, {"order": 2}, {"order": 2, "correction": "heun"}, {"order": 3, "correction": "heun"},
     {"order": 2, "eta": 0.5}, {"method": "singlestep"}],
)  # fmt: skip
def test_the_samples_of_the_sde_are_distributed_as_the_data(options):
    check_moments(solvers.dpmpp_sde, **options)


def test_history_is_two_registers():
    assert solvers.dpmpp(S, 10).registers == 2
    assert solvers.dpmpp(S, 10, order=3).registers == 3


def test_from_pure_noise_to_data_on_a_flow():
    flow, noise = schedules.flow(), torch.randn(50, dtype=torch.float64)
    model = exact_denoiser(flow)
    fine = solvers.dpmpp(flow, 200, prediction="sample").sample(model, noise)
    coarse = solvers.dpmpp(flow, 40, prediction="sample").sample(model, noise)
    assert torch.isfinite(coarse).all()
    assert float((fine - coarse).abs().mean()) < 0.02


@pytest.mark.parametrize("options", [{"order": 0}, {"order": 4}, {"order": True}, {"variant": "exakt"}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="dpmpp"):
        solvers.dpmpp(S, 4, **options)


@pytest.mark.parametrize("options", [{"order": 4}, {"order": 3, "method": "singlestep"}, {"eta": -1.0}])
def test_bad_options_of_the_sde(options):
    with pytest.raises(ValueError, match="dpmpp_sde"):
        solvers.dpmpp_sde(S, 4, **options)


def test_the_last_step_to_sigma_0_draws_no_noise():
    assert len(solvers.dpmpp_sde(S, 5).draws) == 4
    assert len(solvers.dpmpp_sde(S, 5, method="singlestep").draws) == 2 * 4
    assert not solvers.dpmpp_sde(S, 5, eta=0.0).stochastic
