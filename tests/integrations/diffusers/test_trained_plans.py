"""A tuned plan as the scheduler of a pipeline."""

import numpy as np
import pytest
import torch

from pyaccel import schedules, solvers
from pyaccel.integrations.diffusers import PlanScheduler, schedule_of
from pyaccel.solvers import Plan, TrainablePlan
from tests.integrations.pipelines import EXAMPLES

from .test_plan_scheduler import DPM, NOISE, loop, network


def trained(schedule, steps: int, size: float, prediction=None) -> Plan:
    """As if training had moved every parameter by about ``size``."""
    trainable = TrainablePlan(solvers.dpmpp(schedule, steps, order=3, prediction=prediction))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in trainable.parameters():
            p += size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return trainable.plan("gs")


@pytest.mark.parametrize("schedule", [schedule_of(DPM()), schedules.flow()], ids=["vp", "flow"])
def test_a_loop_over_it_samples_what_the_plan_samples(schedule, tmp_path):
    plan = trained(schedule, 4, 0.01)
    plan.save(tmp_path / "plan.json")
    scheduler = PlanScheduler(Plan.load(tmp_path / "plan.json"))
    scheduler.set_timesteps(4)
    assert len(scheduler.timesteps) == 4
    x = loop(scheduler, scheduler.init_noise_sigma * NOISE)
    torch.testing.assert_close(x, plan.sample(network, NOISE), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["stable-diffusion", "sd3", "flux", "dit"])
def test_pipelines_from_config(name):
    example = EXAMPLES[name]

    def image(make) -> torch.Tensor:
        pipe = example.pipe()
        pipe.scheduler = make(pipe.scheduler)
        return example.run(pipe, num_inference_steps=4)

    def with_plan(size: float):
        def make(scheduler):
            original = PlanScheduler.like(scheduler, "dpmpp", order=3)
            original.set_timesteps(4)
            prediction = original.config.prediction
            return PlanScheduler(trained(schedule_of(scheduler), 4, size, prediction), prediction=prediction)

        return make

    untrained, moved = image(with_plan(0.0)), image(with_plan(0.01))
    assert untrained.isfinite().all()
    assert moved.isfinite().all()
    assert (moved - untrained).abs().max() > 1e-3
    if schedule_of(example.pipe().scheduler).name != "flow":  # where pipelines bring no levels of their own along
        ours = image(lambda scheduler: PlanScheduler.like(scheduler, "dpmpp", order=3))
        assert (untrained - ours).abs().max() < 2e-5 * untrained.abs().max()


def test_levels_of_the_pipeline_give_way_to_the_learned_ones():
    plan = trained(schedules.flow(), 4, 0.01)
    scheduler = PlanScheduler(plan)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.25, 4), mu=1.15)
    told = torch.tensor([stage.calls[0].model_time * 1000 for stage in plan.stages])
    torch.testing.assert_close(scheduler.timesteps, told)
    with pytest.raises(ValueError, match="was asked for 5 sigmas"):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.2, 5))
    with pytest.raises(ValueError, match="was asked for 4 sigmas"):
        PlanScheduler(solvers.unipc(schedules.flow(), 4)).set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
