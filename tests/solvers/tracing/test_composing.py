"""``Plan.trace``: every scheduler of diffusers as a Plan that samples what the scheduler's own loop samples."""

import pytest
import torch

from pyaccel import Denoiser, schedules, solvers
from pyaccel.solvers import NotLinear, Plan
from tests.integrations.diffusers.schedulers import CLASSES, KnownNoise, diffusers, network, quiet

DRAWN = list(torch.randn((20, 2, 3, 4, 5), generator=torch.Generator().manual_seed(4), dtype=torch.float64))
NOISE = torch.randn((2, 3, 4, 5), generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def made(name, **options):
    with quiet():
        if "clip_sample" in getattr(diffusers, name).__init__.__wrapped__.__annotations__:
            options = {"clip_sample": False, **options}
        if name == "CMStochasticIterativeScheduler":
            options = {"clip_denoised": False}
        return getattr(diffusers, name)(**options)


def loop(scheduler, steps, noises=None, begin=0, **step_options):
    """The scheduler's own, in float64; what its step i draws is ``noises[i]``."""
    with quiet():
        scheduler.set_timesteps(steps)
        if begin:
            scheduler.set_begin_index(begin)
        x = NOISE * float(getattr(scheduler, "init_noise_sigma", 1.0))
        for i, t in enumerate(scheduler.timesteps[begin:]):
            seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            with KnownNoise([NOISE if noises is None else noises[i]]):
                x = scheduler.step(network(seen, t), t, x, return_dict=False, **step_options)[0]
    return x


def by_step(plan, noises):
    """For a run of the plan: the same noise in each step as in :func:`loop`."""
    if not plan.stochastic:
        return {}
    times = [stage.t for stage in plan.stages]
    order = iter([times.index(draw.t_from) for draw in plan.draws])
    return {"noise_sampler": lambda *_: noises[next(order)]}


def model(x, t):
    return network(x, t[0])


@pytest.mark.parametrize("name", CLASSES)
def test_a_plan_samples_what_the_scheduler_samples(name):
    scheduler = made(name)
    plan = Plan.trace(scheduler, 6)
    expected = loop(scheduler, 6, DRAWN)
    result = plan.sample(model, NOISE, **by_step(plan, DRAWN))
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


def test_the_scheduler_is_left_as_it_is():
    scheduler = made("UniPCMultistepScheduler")
    scheduler.set_timesteps(4)
    before = dict(vars(scheduler))
    Plan.trace(scheduler, 9)
    assert all(vars(scheduler)[name] is value for name, value in before.items())
    assert Plan.trace(scheduler).calls == 4


def test_nothing_is_copied():
    """What a scheduler moves from one place of its history to another stays in its register."""
    for name, registers in (
        ("UniPCMultistepScheduler", 4),
        ("DPMSolverMultistepScheduler", 2),
        ("LMSDiscreteScheduler", 5),
    ):
        plan = Plan.trace(made(name), 8)
        assert plan.registers == registers
        rows = [row for stage in plan.stages for row in stage.rows]
        assert not any(list(row.reads.values()) == [1.0] and set(row.new) == {0.0} for row in rows)


def test_another_prediction_of_the_model_is_converted():
    """A traced plan knows alpha and sigma at its calls, so a Denoiser may predict something else."""
    scheduler = made("DPMSolverMultistepScheduler")
    plan = Plan.trace(scheduler, 5)
    levels = {call.model_time: (call.alpha, call.sigma) for stage in plan.stages for call in stage.calls}

    def x0(x, t):
        alpha, sigma = levels[float(t[0])]
        return (x - sigma * model(x, t)) / alpha

    denoiser = Denoiser(x0, schedules.vp_discrete(scheduler.betas.double().tolist()), "sample")
    torch.testing.assert_close(plan.sample(denoiser, NOISE), plan.sample(model, NOISE), rtol=1e-6, atol=1e-6)


def test_levels_are_those_of_the_schedule():
    """alpha and sigma at the calls are the schedule's at the training steps that the model is told."""
    betas = schedules.scaled_linear_betas()
    schedule = schedules.vp_discrete(betas)
    for name in ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "LMSDiscreteScheduler"):
        plan = Plan.trace(made(name, trained_betas=list(betas)), 5)
        for stage in plan.stages:
            call = stage.calls[0]
            t = (call.model_time + 1) / 1000
            assert call.alpha == pytest.approx(schedule.alpha(t), rel=2e-3)
            assert call.sigma == pytest.approx(schedule.sigma(t), rel=2e-3)


def test_begin_and_step_options():
    scheduler = made("DPMSolverMultistepScheduler", solver_order=3)
    plan = Plan.trace(scheduler, 8, begin=3)
    assert plan.calls == 5
    assert not Plan.trace(made("SASolverScheduler", tau_func=lambda t: 0), 4).stochastic  # it draws, times 0
    torch.testing.assert_close(plan.sample(model, NOISE), loop(scheduler, 8, begin=3), rtol=1e-5, atol=1e-5)
    noisy = Plan.trace(made("DDIMScheduler"), 4, eta=1.0)
    assert noisy.stochastic
    assert noisy.options["eta"] == 1.0
    with pytest.raises(TypeError, match="no argument etta"):
        Plan.trace(made("DDIMScheduler"), 4, etta=1.0)
    with pytest.raises(ValueError, match="begin must be from 0 to 7"):
        Plan.trace(scheduler, 8, begin=8)


def test_clamps_become_the_threshold():
    for name, options in (
        ("DPMSolverMultistepScheduler", {"thresholding": True, "sample_max_value": 1.5}),
        ("UniPCMultistepScheduler", {"thresholding": True, "prediction_type": "v_prediction"}),
        ("LCMScheduler", {"clip_sample": True}),
        ("DDPMScheduler", {"clip_sample": True, "clip_sample_range": 0.8, "prediction_type": "sample"}),
    ):
        scheduler = made(name, **options)
        plan = Plan.trace(scheduler, 5)
        assert plan.threshold == (options.get("sample_max_value", options.get("clip_sample_range", 1.0)),
                                  0.995 if "thresholding" in options else 0.0)  # fmt: skip
        result = plan.sample(model, NOISE, **by_step(plan, DRAWN))
        torch.testing.assert_close(result, loop(scheduler, 5, DRAWN), rtol=1e-5, atol=1e-5)
    with pytest.raises(NotLinear, match="both as it was and clamped"):
        Plan.trace(made("DDIMScheduler", clip_sample=True), 5)


def test_what_is_not_a_plan_is_told_why():
    with pytest.raises(NotLinear, match="step 0 of 5"):
        Plan.trace(made("DDPMScheduler", variance_type="learned_range"), 5)
    with pytest.raises(TypeError, match="not a scheduler"):
        Plan.trace(object(), 5)
    with pytest.raises(ValueError, match="set_timesteps"):
        Plan.trace(made("UniPCMultistepScheduler"))

    class Squares:
        timesteps = torch.arange(3, 0, -1)
        sigmas = torch.tensor([1.0, 0.5, 0.2, 0.0])
        num_inference_steps = 3

        def set_timesteps(self, n): ...

        def step(self, model_output, timestep, sample):
            return (sample + model_output**2,)

    with pytest.raises(NotLinear, match="not linear: on random tensors it differs"):
        Plan.trace(Squares())


def test_a_scheduler_of_ones_own_and_files(tmp_path):
    class Momentum:
        """Euler over noise levels, with a moving average of the predictions."""

        num_inference_steps = None

        def set_timesteps(self, n):
            self.num_inference_steps, self.index, self.average = n, 0, None
            self.sigmas = torch.linspace(1, 0, n + 1)
            self.timesteps = self.sigmas[:-1] * 1000

        def step(self, model_output, timestep, sample):
            self.average = model_output if self.average is None else 0.3 * self.average + 0.7 * model_output
            h = self.sigmas[self.index + 1] - self.sigmas[self.index]
            self.index += 1
            return {"prev_sample": sample + h * self.average}["prev_sample"], None

    plan = Plan.trace(Momentum(), 5)
    scheduler = Momentum()
    scheduler.set_timesteps(5)
    x = NOISE
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x)[0]
    torch.testing.assert_close(plan.sample(model, NOISE), x, rtol=1e-6, atol=1e-6)
    assert plan.registers == 2
    assert plan.prediction == "flow"
    plan.save(tmp_path / "plan.json")
    assert solvers.Plan.load(tmp_path / "plan.json") == plan
    assert "Momentum" in str(plan)
