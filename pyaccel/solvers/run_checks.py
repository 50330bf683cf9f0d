"""What can be wrong with what a run is handed, known before its first model call, and with what a model returns."""

from __future__ import annotations

import dataclasses
import math

import torch

from .. import ops
from ..denoiser import Denoiser
from .plan import TRAINED, Plan


def check_run(plan: Plan, denoiser, noise: torch.Tensor) -> None:
    """TypeError or ValueError for noise, a denoiser or coefficients that do not fit one another."""
    check_noise(noise)
    for tensor in plan.tensors.values():
        if tensor.shape != noise.shape[1:]:
            raise ValueError(
                f"the plan has a coefficient for each element of a sample {list(tensor.shape)}, and the noise "
                f"{list(noise.shape)} has samples {list(noise.shape[1:])}"
            )
    if isinstance(denoiser, Denoiser):
        check_schedule(plan, denoiser)
        if isinstance(denoiser.guidance, torch.Tensor) and len(denoiser.guidance) != len(noise):
            raise ValueError(f"guidance is given for {len(denoiser.guidance)} samples, the noise has {len(noise)}")


def check_tensor(name: str, x: torch.Tensor) -> None:
    """TypeError unless ``x`` is a tensor of a real floating-point type that we serve."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a tensor [B, ...], got {type(x).__name__}")
    if x.dtype not in ops.DTYPES:
        raise TypeError(f"{name} has dtype {x.dtype}; expected one of {', '.join(map(str, ops.DTYPES))}")


def check_noise(noise: torch.Tensor) -> None:
    """TypeError or ValueError unless ``noise`` is a tensor [B, ...] of such a type."""
    check_tensor("noise", noise)
    if noise.dim() < 1:
        raise ValueError("noise must be [B, ...] with a batch dimension, got a tensor without dimensions")


def check_image(image: torch.Tensor, noise: torch.Tensor) -> None:
    """TypeError or ValueError unless ``image`` is a tensor like the noise."""
    check_tensor("image", image)
    if image.shape != noise.shape:
        raise ValueError(f"image has shape {tuple(image.shape)}, the noise {tuple(noise.shape)}")


def with_batched_guidance(denoiser, batched: bool | None):
    """The denoiser, a Denoiser with both passes of guidance in one call or one after the other where that is asked."""
    if batched is None:
        return denoiser
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"batched_guidance is for a pyaccel.Denoiser, got {type(denoiser).__name__}")
    return dataclasses.replace(denoiser, batched=batched)


def check_schedule(plan: Plan, denoiser: Denoiser) -> None:
    """ValueError where the plan's calls are none that the denoiser's schedule knows.

    Values are compared, not names: a shifted flow is the same process as an unshifted one, told the same. What the
    network is told may be off by a twentieth, and by a half where that was learned.
    """
    schedule = denoiser.schedule
    if plan.__dict__.get("_fits") is schedule:  # what the last run found
        return
    calls = [call for stage in plan.stages for call in stage.calls if call.alpha > 0 and call.sigma > 0]
    if calls:
        call = calls[len(calls) // 2]
        t = min(max(float(schedule.time_of_lam(math.log(call.alpha / call.sigma))), 0.0), 1.0)
        told, span = float(schedule.model_time(t)), float(schedule.model_time(1.0)) - float(schedule.model_time(0.0))
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        same_scale = abs(math.hypot(alpha, sigma) / math.hypot(call.alpha, call.sigma) - 1) < 1e-2
        tolerance = 0.5 if TRAINED in plan.options else 0.05
        if not same_scale or abs(told - call.model_time) > tolerance * abs(span):
            raise ValueError(
                f"the plan is for the schedule {plan.schedule[0]}, the denoiser was trained with {schedule.name}: at "
                f"sigma/alpha = {call.sigma / call.alpha:.4g} the plan has alpha = {call.alpha:.4g} and tells the "
                f"network {call.model_time:.4g}, the denoiser's schedule {alpha:.4g} and {told:.4g}; make the plan "
                "with denoiser.schedule"
            )
    plan.__dict__["_fits"] = schedule


def call_name(number: int, t: float) -> str:
    """What errors call a model call."""
    return f"model call {number} (t = {t:.5g})"


def refuse(output, shape: torch.Size, calls: list[str]) -> None:
    """TypeError or ValueError for an ``output`` of ``calls`` that is no tensor of ``shape``."""
    where = " and ".join(calls)
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"{where} returned a {type(output).__name__}, expected a tensor like the noise")
    hint = ""
    doubled = output.dim() == len(shape) > 1 and output.shape[1] == 2 * shape[1]
    if doubled and output.shape[2:] == shape[2:]:
        hint = "; it looks like a prediction with a learned variance: say Denoiser(..., learned_variance=True)"
    raise ValueError(f"{where} returned shape {tuple(output.shape)}, expected {tuple(shape)}{hint}")
