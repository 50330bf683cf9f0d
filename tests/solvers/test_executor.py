import threading

import numpy as np
import pytest
import torch

from pyaccel import Denoiser, schedules, solvers
from pyaccel.denoiser import current_context

from ..mixture import exact_denoiser, times

S = schedules.vp_linear()
FLOW = schedules.flow()


def network(x, t, shift=None):
    """Something nonlinear that looks at each argument."""
    out = torch.tanh(x * (1 + t.view(-1, *[1] * (x.dim() - 1)).to(x.dtype)))
    return out if shift is None else out + shift.view(-1, *[1] * (x.dim() - 1)).to(x.dtype)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v", "flow"])
@pytest.mark.parametrize("solver", [solvers.ddim, solvers.dpmpp, solvers.unipc])
def test_one_plan_serves_every_prediction(prediction, solver):
    """Baked late: the same table, whatever the model predicts."""
    noise = torch.randn(9, dtype=torch.float64)
    plan = solver(S, times=times(7))
    expected = plan.sample(Denoiser(exact_denoiser(S), S, "sample"), noise)
    got = plan.sample(Denoiser(exact_denoiser(S, prediction), S, prediction), noise)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [solvers.euler, solvers.dpmpp, solvers.unipc])
def test_float32_follows_float64(solver):
    noise = torch.randn(64, dtype=torch.float64)
    plan = solver(S, times=times(20), prediction="sample")
    exact = plan.sample(exact_denoiser(S), noise)
    single = plan.sample(lambda x, t: exact_denoiser(S)(x.double(), t.double()).float(), noise.float())
    assert single.dtype == torch.float32
    error = float((single - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    assert error < 1e-6


def test_the_state_is_float32_when_the_network_is_bfloat16():
    seen = []

    def model(x, t):
        seen.append((x.dtype, t.dtype))
        return network(x, t)

    noise = torch.randn(4, 8)
    plan = solvers.unipc(FLOW, 6)
    result = plan.sample(Denoiser(model, FLOW, "flow", dtype=torch.bfloat16), noise)
    assert result.dtype == torch.float32
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    # The network's answers are rounded, the state is not: it stays near a run in which only the answers are rounded.
    rounded = plan.sample(lambda x, t: network(x.bfloat16(), t).float(), noise)
    torch.testing.assert_close(result, rounded, rtol=1e-5, atol=1e-5)


def test_half_precision_noise_gives_half_precision_samples():
    noise = torch.randn(4, 8).bfloat16()
    result = solvers.ddim(FLOW, 4).sample(network, noise)
    assert result.dtype == torch.bfloat16
    wide = solvers.ddim(FLOW, 4).sample(lambda x, t: network(x.bfloat16(), t).float(), noise.float())
    torch.testing.assert_close(result.float(), wide, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("per_sample", [True, False])
def test_guidance_is_folded_into_the_step(batched, per_sample):
    noise, shift = torch.randn(3, 5, dtype=torch.float64), torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    w = torch.tensor([1.5, 0.5, 3.0], dtype=torch.float64) if per_sample else 1.5

    def guided(x, t, shift):
        factor = w.view(-1, 1) if per_sample else w
        return factor * network(x, t, shift) + (1 - factor) * network(x, t, torch.zeros_like(shift))

    plan = solvers.unipc(FLOW, 6)
    expected = plan.sample(guided, noise, shift=shift)
    denoiser = Denoiser(network, FLOW, "flow", w, {"shift": 0.0}, batched)
    torch.testing.assert_close(plan.sample(denoiser, noise, shift=shift), expected, rtol=1e-12, atol=1e-12)


def test_context_is_announced():
    seen = []

    def model(x, t):
        seen.append(current_context())
        return network(x, t)

    solvers.unipc(FLOW, 4).sample(model, torch.randn(2, 3))
    solvers.unipc(FLOW, 4).sample(model, torch.randn(2, 3))
    assert [c.step for c in seen] == [0, 1, 2, 3] * 2
    assert {c.steps for c in seen} == {4}
    assert seen[0].run is seen[3].run
    assert seen[0].run is not seen[4].run
    assert current_context() is None


def test_context_is_gone_after_an_error():
    def model(x, t):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        solvers.ddim(FLOW, 3).sample(model, torch.randn(2, 3))
    assert current_context() is None


def test_callback_sees_each_step_and_may_replace_the_sample():
    seen = []

    def callback(step, t, x):
        seen.append((step, round(t, 6), x))
        x.zero_()  # its own tensor: no effect

    plan, noise = solvers.dpmpp(FLOW, 4), torch.randn(2, 3)
    expected = plan.sample(network, noise)
    assert torch.equal(plan.sample(network, noise, callback=callback), expected)
    assert [(s, t) for s, t, _ in seen] == [(0, 1.0), (1, 0.75), (2, 0.5), (3, 0.25)]
    replaced = plan.sample(network, noise, callback=lambda step, t, x: torch.zeros_like(x) if step == 3 else None)
    assert torch.equal(replaced, torch.zeros(2, 3))
    low = plan.sample(
        Denoiser(network, FLOW, "flow", dtype=torch.bfloat16), noise, callback=lambda step, t, x: 0 * x + 0.5
    )
    assert torch.equal(low, torch.full((2, 3), 0.5))


def test_what_a_model_kept_does_not_change():
    kept = []

    def model(x, t):
        kept.append((x, x.clone()))
        return network(x, t)

    solvers.unipc(FLOW, 8).sample(model, torch.randn(2, 3))
    for x, copy in kept:
        assert torch.equal(x, copy)


def test_noise_is_not_written_to():
    noise = torch.randn(4, 3)
    copy = noise.clone()
    solvers.unipc(FLOW, 5).sample(lambda x, t: x, noise)
    assert torch.equal(noise, copy)


def test_strides_of_noise_do_not_matter():
    noise = torch.randn(2, 3, 4, 5)
    plan = solvers.unipc(FLOW, 4)
    expected = plan.sample(network, noise)
    torch.testing.assert_close(plan.sample(network, noise.to(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(plan.sample(network, noise.transpose(1, 3).contiguous().transpose(1, 3)), expected)


def test_gradients_run_through_the_whole_trajectory():
    plan = solvers.unipc(S, times=times(3), prediction="sample")
    noise = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: plan.sample(exact_denoiser(S), z), noise)
    weight = torch.tensor(0.7, requires_grad=True)
    result = plan.sample(lambda x, t: weight * torch.tanh(x), noise.detach().float(), grad=True)
    assert torch.autograd.grad(result.sum(), weight)[0] != 0
    assert not plan.sample(lambda x, t: weight * torch.tanh(x), noise.detach().float()).requires_grad


def test_threads_do_not_disturb_each_other():
    plan = solvers.unipc(FLOW, 10)
    noises = [torch.randn(3, 7) for _ in range(4)]
    expected = [plan.sample(network, z) for z in noises]
    results = [None] * 4

    def work(i):
        for _ in range(5):
            results[i] = plan.sample(network, noises[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for got, want in zip(results, expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("noise", "error"),
    [
        ([1.0, 2.0], TypeError),
        (torch.ones(2, 3, dtype=torch.int64), TypeError),
        (torch.ones(2, 3, dtype=torch.complex64), TypeError),
        (torch.tensor(1.0), ValueError),
    ],
)
def test_bad_noise(noise, error):
    with pytest.raises(error, match="noise"):
        solvers.ddim(FLOW, 2).sample(network, noise)


def test_bad_predictions_are_named_with_their_call():
    plan, noise = solvers.ddim(FLOW, 2), torch.randn(2, 4, 3, 3)
    with pytest.raises(ValueError, match=r"model call 0 .*\(2, 3\).*expected \(2, 4, 3, 3\)"):
        plan.sample(lambda x, t: torch.zeros(2, 3), noise)
    with pytest.raises(ValueError, match="learned variance"):
        plan.sample(lambda x, t: torch.cat([x, x], dim=1), noise)
    with pytest.raises(TypeError, match="returned a tuple"):
        plan.sample(lambda x, t: (x,), noise)
    with pytest.raises(ValueError, match="alpha is 0"):
        solvers.ddim(FLOW, 2, prediction="epsilon", start=1.0).sample(network, noise)
    with pytest.raises(ValueError, match="3 samples, the noise has 2"):
        plan.sample(Denoiser(network, FLOW, "flow", torch.ones(3), {"shift": 0.0}), noise, shift=torch.ones(2))


def test_the_profiler_names_each_stage():
    plan, noise = solvers.heun(FLOW, 3), torch.randn(2, 3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        plan.sample(network, noise)
    names = {event.key for event in profile.key_averages() if event.key.startswith("pyaccel stage")}
    assert names == {f"pyaccel stage {i} t={stage.t:.4g}" for i, stage in enumerate(plan.stages)}


def test_a_model_that_returns_nan_is_named_with_its_call():
    def model(x, t):
        return x * (float("nan") if float(t[0]) < 0.6 else 1.0)

    with pytest.raises(FloatingPointError, match=r"model call 2 \(t = 0.5\)"):
        solvers.ddim(FLOW, 4).sample(model, torch.randn(2, 3))
    with pytest.raises(FloatingPointError, match="the noise"):
        solvers.ddim(FLOW, 4).sample(network, torch.full((2, 3), float("nan")))
    # Also where the run cannot be made a second time.
    with pytest.raises(FloatingPointError, match=r"model call 2 \(t = 0.5\)"):
        solvers.ddim(FLOW, 4).sample(model, torch.randn(2, 3), callback=lambda i, t, x: None)
    with pytest.raises(FloatingPointError, match=r"model call 2 \(t = 0.5\)"):
        solvers.ddim(FLOW, 4, eta=1.0).sample(model, torch.randn(2, 3), generator=torch.Generator())
    shift = torch.zeros(2)
    guided = Denoiser(lambda x, t, shift: model(x, t), FLOW, "flow", 2.0, {"shift": 0.0})
    with pytest.raises(FloatingPointError, match=r"model call 2 \(t = 0.5\)"):
        solvers.ddim(FLOW, 4).sample(guided, torch.randn(2, 3), shift=shift, callback=lambda i, t, x: None)


def test_nan_of_parallel_calls_and_nan_that_came_once():
    def model(x, t):
        return torch.where(t.view(-1, 1) < 0.75, float("nan"), 1.0) * x

    # The first step, from pure noise, makes call 0; the second call 1 and, in one batch, calls 2 and 3.
    plan = solvers.epd(FLOW, times=[1.0, 0.9, 0.5], points=2)
    with pytest.raises(FloatingPointError, match=r"model call 3 \(t = 0.7"):
        plan.sample(model, torch.randn(2, 3))
    once = iter([float("nan")])
    with pytest.raises(FloatingPointError, match="something else each time"):
        solvers.ddim(FLOW, 2).sample(lambda x, t: x * next(once, 1.0), torch.randn(2, 3))


@pytest.mark.parametrize(
    ("solver", "options"),
    [(solvers.ddim, {}), (solvers.dpmpp, {}), (solvers.unipc, {}), (solvers.unic, {}), (solvers.dpm_v3, {}),
     (solvers.sa_solver, {"tau": 0.0})],
)  # fmt: skip
def test_a_sample_from_the_callback_takes_the_place_of_the_runs(solver, options):
    """With x0 known all the way, what is added at t is at the end sigma_end/sigma_t of it; a corrector must not bring
    the old sample back."""
    noise, x0 = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    plan = solver(S, times=times(6, end=0.1), prediction="sample", **options)

    def moved(step, t, x):
        return x + 1.0 if step == at else None

    at = plan.calls // 2
    following = plan.stages[at + 1].calls[0]
    got = plan.sample(lambda x, t: x0, noise, callback=moved)
    plain = plan.sample(lambda x, t: x0, noise)
    expected = plain + plan.ends[1][1] / following.sigma
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_a_model_of_the_noise_starts_where_there_is_data():
    """vp_cosine has nothing but noise at t = 1, of which a prediction of the noise says nothing."""
    cosine, noise = schedules.vp_cosine(), torch.randn(2, 3, dtype=torch.float64)
    for name, solver in solvers.SOLVERS.items():
        if name in ("dpm_adaptive", "flow_map"):
            continue
        plan = solver(cosine, 4)
        assert plan.times[0] == cosine.t_max
        x = plan.sample(lambda x, t, **_: torch.tanh(x), noise, seed=0 if plan.draws else None)
        assert torch.isfinite(x).all(), name
    assert solvers.unipc(cosine, 4, prediction="v").times[0] == 1.0
    terminal = schedules.vp_discrete(schedules.rescale_zero_terminal_snr(schedules.linear_betas()))
    assert solvers.unipc(terminal, 4).prediction == "v"
    with pytest.raises(ValueError, match="start the times below 1"):
        solvers.unipc(cosine, 4, start=1.0).sample(network, noise)


def test_the_denoisers_schedule_must_be_the_plans():
    noise = torch.randn(2, 3)
    for plan in (solvers.ddim(S, 4), solvers.ddim(schedules.vp_cosine(), 4), solvers.ddim(schedules.edm(), 4)):
        with pytest.raises(ValueError, match=r"trained with flow.*denoiser.schedule"):
            plan.sample(Denoiser(network, FLOW, "flow"), noise)
    with pytest.raises(ValueError, match="trained with vp_cosine"):
        solvers.ddim(S, 4).sample(Denoiser(network, schedules.vp_cosine(), "epsilon"), noise)
    # The same process in another clock, and another range of the same: told the same at the same noise.
    solvers.ddim(schedules.flow(3.0), 4).sample(Denoiser(network, FLOW, "flow"), noise)
    solvers.ddim(schedules.ve(), 4).sample(Denoiser(network, schedules.edm(), "sample"), noise)


@pytest.mark.parametrize("steps", [np.int64(3), 3])
def test_numbers_of_numpy(steps):
    plan = solvers.ddpm(FLOW, steps)
    noise = torch.randn(2, 3)
    expected = plan.sample(network, noise, seed=5)
    for seed in (np.int64(5), np.array([5, 6]), [np.int64(5), 6]):
        assert torch.equal(plan.sample(network, noise, seed=seed), expected)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_sde", "ddim", "euler_maruyama", "tcd", "ctm"])
def test_without_its_noise_a_solver_wants_no_seed(name):
    options = {"gamma": 0.0} if name in ("tcd", "ctm") else {"eta": 0.0}
    assert not solvers.from_name(name)(S, 4, **options).stochastic


def test_parallel_calls_are_one_batch():
    sizes = []

    def model(x, t, shift):
        sizes.append((len(x), len(t), len(shift)))
        return network(x, t) + shift.view(-1, 1)

    noise, shift = torch.randn(2, 3, dtype=torch.float64), torch.tensor([0.1, -0.2], dtype=torch.float64)
    together = solvers.epd(FLOW, 3, points=2).sample(model, noise, shift=shift)
    assert (4, 4, 4) in sizes
    guided = Denoiser(model, FLOW, "flow", guidance=1.5, unconditional={"shift": 0.0})
    a = solvers.epd(FLOW, 3, points=2).sample(guided, noise, shift=shift)
    b = solvers.epd(FLOW, 3, points=2).sample(guided, noise, shift=shift, batched_guidance=False)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(a, together)


def test_batched_guidance_is_chosen_per_run():
    sizes = []

    def model(x, t, shift):
        sizes.append(len(x))
        return network(x, t) + shift.view(-1, 1)

    denoiser = Denoiser(model, FLOW, "flow", guidance=2.0, unconditional={"shift": 0.0})
    plan, noise, shift = solvers.ddim(FLOW, 2), torch.randn(3, 2), torch.ones(3)
    one = plan.sample(denoiser, noise, shift=shift, batched_guidance=True)
    other = plan.sample(denoiser, noise, shift=shift, batched_guidance=False)
    assert sizes == [6, 6, 3, 3, 3, 3]
    torch.testing.assert_close(one, other)
    with pytest.raises(TypeError, match="batched_guidance"):
        plan.sample(network, noise, batched_guidance=True)
