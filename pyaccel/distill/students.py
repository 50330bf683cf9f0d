"""Students made from teachers: the same network with the same weights, and what its first times are."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor, nn

from .. import ops
from ..denoiser import Denoiser
from ..schedules import Schedule
from ..solvers import Plan
from ..solvers.students import lcm
from ..training.parallel import local
from ..training.recipe import Network, module_of, unwrapped

Initial = Literal["teacher", "random"]


def student_of(teacher: Denoiser, second_time: bool = False, initial: Initial = "teacher") -> Denoiser:
    """A copy of the teacher without guidance, in float32; with ``second_time`` it takes the time ``to``, too.

    It has the teacher's weights, or with ``initial`` "random" those of a network that was never trained. ValueError
    where the network has no place for a second time.
    """
    if not isinstance(teacher.model, nn.Module):
        raise TypeError(
            f"a student is a copy of its teacher's network: an nn.Module, got {type(teacher.model).__name__}; put the "
            "function into the forward of a module"
        )
    model = copy.deepcopy(teacher.model).float().requires_grad_(True)
    if initial == "random":
        _forget(model)
    if second_time:
        if not hasattr(model, "add_second_time"):
            raise ValueError(
                f"{type(model).__name__} takes one time, and this recipe's student needs two: a network with a method "
                "add_second_time(), after which it takes `to`, such as pyaccel.models.DiT and UNet"
            )
        model.add_second_time()
    return dataclasses.replace(teacher, model=model, guidance=1.0, dtype=None)


def _forget(model: nn.Module) -> None:
    """New random weights: each part's ``reset_parameters()``, and what the model's ``initialise()`` makes different."""
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    if hasattr(model, "initialise"):
        model.initialise()


class OwnPrecision(nn.Module):
    """``forward(x, t, **conditioning)`` of a network whose weights have 16 bits, in these; outputs have x's dtype."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor, t: Tensor, **conditioning) -> Tensor | list[Tensor]:
        given = {name: self._cast(value, self.dtype) for name, value in conditioning.items()}
        with torch.autocast(x.device.type, enabled=False):
            output = self.network(x.to(self.dtype), t, **given)
        return self._cast(output, x.dtype) if isinstance(output, Tensor) else [self._cast(o, x.dtype) for o in output]

    @staticmethod
    def _cast(value, dtype: torch.dtype):
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def teacher_of(teacher: Denoiser) -> Denoiser:
    """The teacher, asked in the precision of the training, or in that of its weights where these have 16 bits."""
    model = teacher.model
    dtypes = [p.dtype for p in model.parameters() if p.dtype in (torch.float16, torch.bfloat16)]
    return dataclasses.replace(teacher, model=OwnPrecision(model, dtypes[0]) if dtypes else model, dtype=None)


def require_flow(recipe: str, denoiser: Denoiser) -> None:
    """ValueError unless the network predicts a flow on the schedule ``flow()``, as flow maps do."""
    schedule = denoiser.schedule
    if schedule.name != "flow" or denoiser.prediction != "flow":
        raise ValueError(
            f"{recipe} learns a flow map: it needs a teacher that predicts a flow on the schedule flow(), got "
            f"{denoiser.prediction!r} on {schedule.name}"
        )


def start_of(schedule: Schedule, most: float) -> dict[str, float]:
    """A solver's option ``start`` at the noise level sigma/alpha of ``most``; none where the schedule has no more."""
    return {"start": schedule.time_of_ratio(most)} if most < schedule.ratio(1.0) else {}


def consistency_plan(denoiser: Denoiser, steps: int, most: float = math.inf) -> Plan:
    """Consistency multistep sampling: predict the sample, add fresh noise to the next level.

    It begins at the noise level sigma/alpha of ``most``, the largest that the student has seen, or at the schedule's.
    """
    schedule = denoiser.schedule
    return lcm(schedule, steps, prediction=denoiser.prediction, **start_of(schedule, most))


def ddim_transfer(schedule: Schedule, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s = alpha_s·x0 + sigma_s·eps of x [b, ...] at the times t [b] and its x0 (Song et al. 2021, eq. 12).

    With r = sigma/alpha it is x_s/alpha_s = (r_s/r_t)·x/alpha_t + (1 − r_s/r_t)·x0: eq. 9 of CTM, too.
    """
    ratio = schedule.sigma(s) / schedule.sigma(t)
    coefficients = torch.stack([ratio, schedule.alpha(s) - ratio * schedule.alpha(t)], dim=-1)[:, None]
    return ops.linear_combination([x, x0], coefficients)[0]


def implied_sample(schedule: Schedule, x: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The x0 with which :func:`ddim_transfer` leads from x to x_s (Salimans & Ho 2022, Algorithm 2).

    (x_s − (sigma_s/sigma_t)·x) / (alpha_s − (sigma_s/sigma_t)·alpha_t)
    """
    ratio = schedule.sigma(s) / schedule.sigma(t)
    scale = 1 / (schedule.alpha(s) - ratio * schedule.alpha(t))
    return ops.linear_combination([x_s, x], torch.stack([scale, -ratio * scale], dim=-1)[:, None])[0]


def per_sample(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers [b] as [b, 1, ...], in the dtype of ``like`` [b, ...]."""
    return numbers.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """The parameters and buffers of one network into another of the same architecture."""
    for mine, theirs in zip(target.state_dict().values(), source.state_dict().values(), strict=True):
        mine.copy_(theirs)


@torch.no_grad()
def follow(target: Network, student: Network, rate: float) -> None:
    """The target becomes ``rate`` of itself and the rest of the student."""
    averages, now = ([local(p) for p in module_of(unwrapped(n)).parameters()] for n in (target, student))
    ops.ema_update(averages, now, rate)
