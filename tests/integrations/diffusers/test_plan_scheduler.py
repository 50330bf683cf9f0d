"""PlanScheduler: a pipeline's loop over it samples what ``Plan.sample`` samples."""

import copy
import pickle

import pytest
import torch

from pyaccel import schedules, solvers
from pyaccel.integrations.diffusers import PlanScheduler, fuse, prediction_of, schedule_of

from .schedulers import diffusers

NOISE = torch.randn((2, 3, 4, 5), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
DPM = diffusers.DPMSolverMultistepScheduler
FLOW = diffusers.FlowMatchEulerDiscreteScheduler


def network(x, t=None):
    return torch.sin(2 * x.double()).to(x.dtype)


def loop(scheduler, x, begin=0, **options):
    """A pipeline's, after set_timesteps."""
    for t in scheduler.timesteps[begin:]:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(seen), t, x, return_dict=False, **options)[0]
    return x


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("dpmpp", {"order": 2}),
        ("dpmpp", {"order": 3, "grid": "karras"}),
        ("unipc", {"order": 3}),
        ("deis", {}),
        ("ddim", {}),
        ("heun", {}),
        ("rk4", {}),
        ("pndm", {}),
        ("lms", {}),
        ("dpmpp", {"order": 2, "threshold": 1.0}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loop_is_the_plan(solver, options, dtype):
    scheduler = PlanScheduler.like(DPM(), solver, **options)
    plan = solvers.from_name(solver)(schedule_of(DPM()), steps=6, **options)
    scheduler.set_timesteps(6)
    assert len(scheduler.timesteps) == plan.calls == len(scheduler.sigmas) - 1
    x = loop(scheduler, (scheduler.init_noise_sigma * NOISE).to(dtype))
    expected = plan.sample(network, NOISE.to(dtype))
    assert x.dtype is dtype
    # The pipeline's sample is rounded once more at the start, and what the model sees once in every step.
    tolerance = {torch.float64: 1e-7, torch.float32: 2e-5, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(x, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def test_flow_with_sigmas_and_mu_is_euler_of_diffusers():
    sigmas = [1.0, 0.9, 0.7, 0.5, 0.3, 0.1]
    for settings, options in (({"shift": 3.0}, {}), ({"use_dynamic_shifting": True}, {"mu": 0.8})):
        original, ours = FLOW(**settings), PlanScheduler.like(FLOW(**settings), "euler")
        original.set_timesteps(sigmas=sigmas, **options)
        ours.set_timesteps(sigmas=sigmas, **options)
        torch.testing.assert_close(ours.timesteps, original.timesteps)
        torch.testing.assert_close(ours.sigmas, original.sigmas)
        torch.testing.assert_close(loop(ours, NOISE), loop(original, NOISE), rtol=1e-5, atol=1e-5)
    ours = PlanScheduler.like(DPM(), "ddim")
    with pytest.raises(ValueError, match="sigmas and mu are for flows"):
        ours.set_timesteps(sigmas=sigmas)


def test_image_to_image():
    """From a later step on: the noised image, and a plan of the times that are left."""
    scheduler = PlanScheduler.like(DPM(), "unipc", order=3)
    scheduler.set_timesteps(8)
    scheduler.set_begin_index(5)
    image, noise = NOISE, NOISE.flip(0)
    start = scheduler.timesteps[5:6]
    x = scheduler.add_noise(image, noise, start)
    call = scheduler._plan.stages[5].calls[0]
    torch.testing.assert_close(x, call.alpha * image + call.sigma * noise)
    result = loop(scheduler, x, begin=5)
    times = solvers.unipc(schedule_of(DPM()), steps=8).times[5:]
    plan = solvers.unipc(schedule_of(DPM()), times=times, order=3)
    torch.testing.assert_close(result, plan.sample(network, x / call.sigma), rtol=1e-6, atol=1e-6)
    assert scheduler.step_index == 8
    heun = PlanScheduler.like(DPM(), "heun")
    heun.set_timesteps(8)
    heun.set_begin_index(6)
    assert heun.order == 2
    plan = solvers.heun(schedule_of(DPM()), times=solvers.heun(schedule_of(DPM()), steps=8).times[3:])
    expected = plan.sample(network, NOISE)
    torch.testing.assert_close(loop(heun, plan.ends[0][1] * NOISE, begin=6), expected, rtol=1e-6, atol=1e-6)


def test_a_sample_that_was_edited():
    scheduler = PlanScheduler.like(DPM(), "dpmpp")
    plan = solvers.dpmpp(schedule_of(DPM()), steps=4, order=2)
    scheduler.set_timesteps(4)
    x = scheduler.init_noise_sigma * NOISE
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x), t, x).prev_sample
        if i == 1:
            x = x * 0.5
    expected = plan.sample(network, NOISE, callback=lambda i, t, x: 0.5 * x if i == 1 else None)
    torch.testing.assert_close(x, expected, rtol=1e-7, atol=1e-7)


def test_stochastic_by_generator():
    def run(generator):
        scheduler = PlanScheduler.like(DPM(), "euler_ancestral")
        scheduler.set_timesteps(4)
        return loop(scheduler, scheduler.init_noise_sigma * NOISE, generator=generator)

    a, b, c = (run(torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    plan = solvers.euler_ancestral(schedule_of(DPM()), steps=4)
    expected = plan.sample(network, NOISE, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(a, expected, rtol=1e-7, atol=1e-7)
    each = run([torch.Generator().manual_seed(s) for s in (1, 2)])
    assert each.shape == NOISE.shape


def test_save_load_copy_and_pickle(tmp_path):
    plan = solvers.unipc(schedules.flow(2.0), steps=5)
    for scheduler in (PlanScheduler.like(FLOW(shift=3.0), "deis", order=3), PlanScheduler(plan)):
        scheduler.set_timesteps(5)
        expected = loop(scheduler, NOISE)
        scheduler.save_pretrained(tmp_path)
        copies = [PlanScheduler.from_pretrained(tmp_path), PlanScheduler.from_config(scheduler.config),
                  copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))]  # fmt: skip
        for other in copies:
            other.set_timesteps(5)
            assert torch.equal(loop(other, NOISE), expected)


def test_another_run_begins_anew():
    scheduler = PlanScheduler.like(DPM(), "unipc")
    results = []
    for _ in range(2):
        scheduler.set_timesteps(5)
        results.append(loop(scheduler, NOISE))
    assert torch.equal(*results)
    with pytest.raises(ValueError, match="steps are over"):
        scheduler.step(NOISE, scheduler.timesteps[0], NOISE)


def test_what_is_refused():
    plan = solvers.unipc(schedules.flow(), steps=5)
    with pytest.raises(ValueError, match="either a plan or the name of a solver"):
        PlanScheduler()
    with pytest.raises(ValueError, match="did you mean"):
        PlanScheduler.like(DPM(), "unipcc")
    with pytest.raises(ValueError, match="needs a schedule"):
        PlanScheduler(solver="unipc")
    with pytest.raises(ValueError, match="several model calls at once"):
        PlanScheduler(solvers.epd(schedules.flow(), steps=3))
    with pytest.raises(ValueError, match="not a plan of pyaccel"):
        PlanScheduler({"stages": []})
    scheduler = PlanScheduler(plan)
    with pytest.raises(ValueError, match="set_timesteps before step"):
        scheduler.step(NOISE, 1000.0, NOISE)
    with pytest.raises(ValueError, match="runs one plan of 5 steps, and was asked for 6"):
        scheduler.set_timesteps(6)
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="is none of this scheduler's"):
        scheduler.step(NOISE, 17.0, NOISE)
    scheduler.set_begin_index(2)
    with pytest.raises(ValueError, match="begin at step 2"):
        scheduler.step(NOISE, scheduler.timesteps[2], NOISE)
    with pytest.raises(ValueError, match="neither betas nor flow sigmas"):
        schedule_of(diffusers.EDMEulerScheduler())


def test_terms_of_a_scheduler():
    assert schedule_of(FLOW(shift=3.0)).parameters == {"shift": 3.0}
    assert schedule_of(diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=5.0)).parameters["shift"] == 5
    assert schedule_of(diffusers.DDIMScheduler()).name == "vp_discrete"
    assert prediction_of(diffusers.DDIMScheduler(prediction_type="v_prediction")) == "v"
    assert prediction_of(FLOW()) == "flow"


def test_position_and_fuse():
    scheduler = PlanScheduler.like(DPM(), "dpmpp")
    assert fuse(scheduler) is scheduler
    assert scheduler.pyaccel_position() is None
    scheduler.set_timesteps(3)
    first = scheduler.pyaccel_position()
    assert (first.step, first.steps) == (0, 3)
    scheduler.step(NOISE, scheduler.timesteps[0], NOISE)
    assert scheduler.pyaccel_position().step == 1
    assert scheduler.pyaccel_position().run is first.run
    scheduler.set_timesteps(3)
    assert scheduler.pyaccel_position().run is not first.run
    assert "dpmpp, 3 steps" in scheduler.pyaccel_summary()
