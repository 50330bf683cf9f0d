import itertools

import pytest
import torch

from pyaccel import Denoiser, schedules, solvers

from ..mixture import exact_denoiser
from .convergence import truth

S = schedules.vp_linear()
END = 0.02


@pytest.mark.parametrize("order", [2, 3])
def test_a_smaller_tolerance_gives_a_smaller_error(order):
    noise = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)
    exact, found = truth(S, noise), []
    for rtol in (5e-2, 5e-3, 5e-4):
        solver = solvers.dpm_adaptive(S, order=order, rtol=rtol, atol=rtol / 10, prediction="sample", end=END)
        error = float((solver.sample(exact_denoiser(S), noise) - exact).abs().mean())
        found.append((solver.calls, error))
        print(order, rtol, *found[-1])
    assert all(b[0] > a[0] and b[1] < 0.5 * a[1] for a, b in itertools.pairwise(found))
    assert found[-1][1] < 2e-4


@pytest.mark.parametrize("order", [2, 3])
def test_accepted_steps_lead_from_start_to_end(order):
    solver = solvers.dpm_adaptive(S, order=order, prediction="sample", end=END)
    solver.sample(exact_denoiser(S), torch.randn(5, dtype=torch.float64))
    accepted = [a for a in solver.attempts if a.accepted]
    assert accepted[0].t_from == 1.0
    assert accepted[-1].t_to == pytest.approx(END)
    assert all(a.t_to == pytest.approx(b.t_from) for a, b in itertools.pairwise(accepted))
    assert all((a.error <= 1) == a.accepted for a in solver.attempts)
    # One call at the begin of each accepted step, order − 1 inside each attempt.
    assert solver.calls == len(accepted) + (order - 1) * len(solver.attempts)


def test_each_step_is_that_of_the_singlestep_solvers():
    noise = torch.randn(9, dtype=torch.float64)
    for order in (2, 3):
        solver = solvers.dpm_adaptive(
            S, order=order, rtol=1e6, first_step=100.0, prediction="sample", start=0.5, end=0.3
        )
        got = solver.sample(exact_denoiser(S), noise)
        plan = solvers.dpm(S, times=[0.5, 0.3], order=order, prediction="sample", lower_order_final=False)
        torch.testing.assert_close(got, plan.sample(exact_denoiser(S), noise), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", [schedules.flow(), schedules.vp_cosine(), schedules.edm()], ids=lambda s: s.name)
def test_from_pure_noise_to_pure_data(schedule):
    def model(x, t):
        return torch.tanh(x)

    noise = torch.randn(4, 3)
    got = solvers.dpm_adaptive(schedule, rtol=1e-3, atol=1e-4, prediction="sample").sample(model, noise)
    start = schedule.t_max if schedule.alpha(1.0) == 0 else 1.0
    fine = solvers.unipc(schedule, 400, grid="log_snr", start=start, prediction="sample").sample(model, noise)
    assert float((got - fine).abs().mean()) < 5e-3


def test_guidance_and_conditioning():
    def model(x, t, c):
        return torch.tanh(x) + c.view(-1, 1)

    noise, c = torch.randn(3, 2), torch.tensor([0.1, 0.2, 0.3])
    for guidance in (2.0, torch.tensor([1.0, 2.0, 3.0])):
        denoiser = Denoiser(model, S, "sample", guidance=guidance, unconditional={"c": 0.0})
        got = solvers.dpm_adaptive(S, rtol=1e-3, atol=1e-4, end=0.1).sample(denoiser, noise, c=c)
        fine = solvers.unipc(S, 400, end=0.1).sample(denoiser, noise, c=c)
        assert float((got - fine).abs().mean()) < 5e-3


def test_callback_sees_accepted_steps():
    seen = []
    solver = solvers.dpm_adaptive(S, prediction="sample")
    solver.sample(exact_denoiser(S), torch.randn(3), callback=lambda step, t, x: seen.append((step, t)))
    assert [s for s, _ in seen] == list(range(len(seen)))
    assert [t for _, t in seen] == pytest.approx([a.t_to for a in solver.attempts if a.accepted])


def test_image_to_image():
    noise, image = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    solver = solvers.dpm_adaptive(S, rtol=1e-4, atol=1e-5, start=0.6, prediction="sample")
    got = solver.sample(exact_denoiser(S), noise, image=image)
    fine = solvers.unipc(S, 200, start=0.6, prediction="sample").sample(exact_denoiser(S), noise, image=image)
    torch.testing.assert_close(got, fine, rtol=1e-3, atol=1e-3)


def test_both_passes_of_guidance_in_one_call_or_two():
    sizes = []

    def model(x, t, c):
        sizes.append(len(x))
        return torch.tanh(x) + c.view(-1, 1)

    noise, c = torch.randn(3, 2), torch.tensor([0.1, 0.2, 0.3])
    denoiser, solver = Denoiser(model, S, "sample", 2.0, {"c": 0.0}), solvers.dpm_adaptive(S, end=0.1)
    one = solver.sample(denoiser, noise, c=c, batched_guidance=True)
    assert set(sizes) == {6}
    sizes.clear()
    torch.testing.assert_close(solver.sample(denoiser, noise, c=c, batched_guidance=False), one)
    assert set(sizes) == {3}


def test_errors():
    with pytest.raises(TypeError, match="no mask, seed"):
        solvers.dpm_adaptive(S).sample(exact_denoiser(S), torch.randn(3), seed=0, mask=torch.ones(3))
    with pytest.raises(ValueError, match="learned_variance=True"):
        solvers.dpm_adaptive(S).sample(lambda x, t: torch.cat([x, x], 1), torch.randn(3, 2))
    with pytest.raises(ValueError, match="chooses its steps by itself"):
        solvers.dpm_adaptive(S, 10)
    with pytest.raises(ValueError, match="rtol"):
        solvers.dpm_adaptive(S, rtol=0.0)
    with pytest.raises(ValueError, match="order"):
        solvers.dpm_adaptive(S, order=4)
    with pytest.raises(RuntimeError, match="raise rtol"):
        solvers.dpm_adaptive(S, rtol=1e-7, atol=1e-9, most_calls=30).sample(
            exact_denoiser(S, "epsilon"), torch.randn(3)
        )
    with pytest.raises(FloatingPointError, match="model call 0"):
        solvers.dpm_adaptive(S).sample(lambda x, t: x * float("nan"), torch.randn(3))
    with pytest.raises(ValueError, match=r"returned shape \(1,\), expected \(3,\)"):
        solvers.dpm_adaptive(S).sample(lambda x, t: x[:1], torch.randn(3))
