"""The step of a fused scheduler beside the original's: the same loop, the same tensors, in turns.

A pipeline's loop of STEPS steps with a model that returns the same tensor at no cost; set_timesteps is not timed, the
first step, which finds the table, is. Both give the same samples (tests/integrations/diffusers). On 64 MB latents the
steps of both wait for memory, so there the ratio is that of the passes over it.
"""

import time

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="the bench extra has it")
diffusers.utils.logging.set_verbosity_error()

from pyaccel.integrations.diffusers import fuse  # noqa: E402

STEPS = 20
SMALL, LARGE = (1, 4, 8, 8), (1, 4, 2048, 2048)
CASES = {
    "FlowMatchEuler": ("FlowMatchEulerDiscreteScheduler", {}),
    "FlowMatchHeun": ("FlowMatchHeunDiscreteScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "EulerAncestral": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "KDPM2Ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "EDMEuler": ("EDMEulerScheduler", {}),
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "DDIM, clipped": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "iPNDM": ("IPNDMScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 2S": ("DPMSolverSinglestepScheduler", {"solver_order": 2}),
    "EDM DPM++ 2M": ("EDMDPMSolverMultistepScheduler", {}),
    "DEIS 3": ("DEISMultistepScheduler", {"solver_order": 3}),
    "UniPC 2": ("UniPCMultistepScheduler", {"solver_order": 2}),
    "UniPC 3": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "SA-Solver": ("SASolverScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "CogVideoX DDIM": ("CogVideoXDDIMScheduler", {}),
    "LTX EulerAncestral": ("LTXEulerAncestralRFScheduler", {}),
}


def seconds_per_step(scheduler, x, output, options) -> float:
    scheduler.set_timesteps(STEPS)
    timesteps = list(scheduler.timesteps)
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(x, timesteps[0])
    step = scheduler.step
    begin = time.perf_counter()
    for t in timesteps:
        x = step(output, t, x, return_dict=False, **options)[0]
    return (time.perf_counter() - begin) / len(timesteps)


def in_turns(contestants, x, output, seconds: float, fewest: int = 5) -> dict[str, float]:
    best = dict.fromkeys(contestants, float("inf"))
    begin, turns = time.perf_counter(), 0
    while turns < fewest or time.perf_counter() - begin < seconds:
        for name, scheduler in contestants.items():
            options = {"generator": torch.Generator().manual_seed(0)} if "generator" in _names(scheduler) else {}
            best[name] = min(best[name], seconds_per_step(scheduler, x, output, options))
        turns += 1
    return best


def _names(scheduler) -> tuple[str, ...]:
    code = getattr(type(scheduler).step, "__wrapped__", type(scheduler).step).__code__
    return code.co_varnames[: code.co_argcount]


@pytest.mark.parametrize("case", CASES)
def test_small_latent(benchmark, report, case):
    name, config = CASES[case]
    original = getattr(diffusers, name)(**config)
    contestants = {"original": original, "fused": fuse(original)}
    x, output = torch.randn(SMALL), torch.randn(SMALL)
    with torch.no_grad():
        seconds = in_turns(contestants, x, output, 0.6)
        benchmark.pedantic(lambda: seconds_per_step(contestants["fused"], x, output, {}), rounds=5)
    report(
        "one step of a scheduler of diffusers, 1×4×8×8 float32, CPU",
        scheduler=case,
        **{
            "fused, µs": seconds["fused"] * 1e6,
            "original, µs": seconds["original"] * 1e6,
            "× original": seconds["original"] / seconds["fused"],
        },
    )


@pytest.mark.parametrize("case", ["DPM++ 2M", "UniPC 3", "FlowMatchEuler"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_latent(benchmark, report, case, dtype):
    name, config = CASES[case]
    original = getattr(diffusers, name)(**config)
    contestants = {"original": original, "fused": fuse(original)}
    x, output = torch.randn(LARGE).to(dtype), torch.randn(LARGE).to(dtype)
    with torch.no_grad():
        seconds = in_turns(contestants, x, output, 2.0, 3)
        benchmark.pedantic(lambda: seconds_per_step(contestants["fused"], x, output, {}), rounds=1)
    report(
        "one step of a scheduler of diffusers, 1×4×2048×2048 (64 MB in float32), CPU",
        scheduler=case,
        dtype=str(dtype).removeprefix("torch."),
        **{
            "fused, ms": seconds["fused"] * 1e3,
            "original, ms": seconds["original"] * 1e3,
            "× original": seconds["original"] / seconds["fused"],
        },
    )
