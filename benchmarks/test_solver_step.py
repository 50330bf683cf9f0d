"""One solver step on a 1×4×64×64 latent, beside the scheduler's step of ``diffusers`` 0.42.

A whole run of 20 steps is timed with a model that returns the same tensor at no cost, and divided by 20: what is left
is conversion, update, history and bookkeeping, on both sides in float32, the schedulers set up before.
"""

import pytest
import torch
from harness import in_turns

from pyaccel import schedules, solvers

STEPS, SHAPE = 20, (1, 4, 64, 64)
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2


def peers():
    diffusers = pytest.importorskip("diffusers")
    common = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return {
        "dpmpp 2M": (solvers.dpmpp, {"order": 2}, diffusers.DPMSolverMultistepScheduler(solver_order=2, **common)),
        "unipc 3": (solvers.unipc, {"order": 3}, diffusers.UniPCMultistepScheduler(solver_order=3, **common)),
    }


@pytest.mark.parametrize("name", ["dpmpp 2M", "unipc 3"])
def test_step(benchmark, report, name):
    solver, options, scheduler = peers()[name]
    plan = solver(schedules.vp_discrete(BETAS), STEPS, **options)
    noise, output = torch.randn(SHAPE), torch.randn(SHAPE)
    scheduler.set_timesteps(STEPS)
    timesteps = list(scheduler.timesteps)

    def ours():
        return plan.sample(lambda x, t: output, noise)

    def theirs():
        # What set_timesteps resets, without its cost.
        scheduler.model_outputs = [None] * scheduler.config.solver_order
        scheduler.lower_order_nums, scheduler._step_index, scheduler.last_sample = 0, None, None
        x = noise
        for t in timesteps:
            x = scheduler.step(output, t, x, return_dict=False)[0]
        return x

    with torch.no_grad():
        seconds = in_turns({"ours": ours, "diffusers": theirs})
        benchmark.pedantic(ours, rounds=20, iterations=2)
    cost = plan.cost(SHAPE)
    report(
        "one solver step, 1×4×64×64 float32",
        case=name,
        **{
            "ours, µs": seconds["ours"] / STEPS * 1e6,
            "diffusers, µs": seconds["diffusers"] / STEPS * 1e6,
            "× diffusers": seconds["diffusers"] / seconds["ours"],
            "GB/s of the table": cost.bytes / seconds["ours"] / 1e9,
        },
    )
