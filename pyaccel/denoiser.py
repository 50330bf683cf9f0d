"""The Denoiser: model + schedule + prediction + guidance as one callable; and the StepContext of a run.

The StepContext is announced by whoever drives the model (the executor of a Plan, a fused scheduler, the user) and read
by whoever sits inside it (a feature cache): which run, which step of how many. So neither has to know the other, and
nothing is read from the device to find out.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from . import ops, predictions
from .schedules import Schedule


class Run:
    """The identity of one sampling run; what is kept for one run is never seen by another."""


class StepContext(NamedTuple):
    """Where a run stands: model call ``step`` of ``steps`` at time ``t``; ``branch`` tells apart the guidance passes
    that are made one after the other (None where one call serves all)."""

    run: Run
    step: int
    steps: int
    t: float
    branch: str | None = None


_context: ContextVar[StepContext | None] = ContextVar("pyaccel_step_context", default=None)


def current_context() -> StepContext | None:
    """The StepContext announced in this thread, or None."""
    return _context.get()


class announce:
    """Within ``with announce(context):``, :func:`current_context` is ``context``."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: StepContext):
        self._context = context

    def __enter__(self) -> StepContext:
        self._token = _context.set(self._context)
        return self._context

    def __exit__(self, *_) -> None:
        _context.reset(self._token)


@dataclass
class Denoiser:
    """A model with all that a solver has to know about it.

    Args:
        model: ``(x, t, **conditioning) -> output`` with x [B, ...] and t [B], the schedule's model time.
        schedule: the noise schedule that it was trained with.
        prediction: what it predicts: ``epsilon``, ``sample``, ``v`` or ``flow``.
        guidance: w in o = w·o_cond + (1 − w)·o_uncond (Ho & Salimans 2022; their w is this one minus 1); a number, or a
            tensor [B] for each sample its own. With the number 1 the unconditional pass is left out.
        unconditional: for each conditioning argument its value without condition, a number or a tensor that
            expands to it; needed for guidance.
        batched: both passes as one call of twice the batch, or one after the other.
        dtype: dtype of the network's input; by default that of the noise.
        learned_variance: the model's output [B, 2C, ...] has a second half that predicts the variance (Nichol &
            Dhariwal 2021); it is split off.
    """

    model: Callable[..., torch.Tensor]
    schedule: Schedule
    prediction: str
    guidance: float | torch.Tensor = 1.0
    unconditional: dict[str, Any] = field(default_factory=dict)
    batched: bool = True
    dtype: torch.dtype | None = None
    learned_variance: bool = False

    def __post_init__(self):
        predictions.check(self.prediction)
        if not isinstance(self.guidance, torch.Tensor):
            self.guidance = float(self.guidance)
            if not math.isfinite(self.guidance):
                raise ValueError(f"guidance must be a finite number or a tensor [B], got {self.guidance!r}")
        elif self.guidance.dim() != 1:
            raise ValueError(f"a guidance tensor must be [B], got shape {tuple(self.guidance.shape)}")
        if self.guided and not self.unconditional:
            raise ValueError(
                "guidance other than 1 needs unconditional={argument: value without condition}, "
                "for pyaccel's own models unconditional={'label': model.classes}"
            )

    @property
    def guided(self) -> bool:
        """Whether the unconditional pass is made."""
        return isinstance(self.guidance, torch.Tensor) or self.guidance != 1.0

    @property
    def weights(self) -> list[float] | list[torch.Tensor]:
        """The factor of each branch in the guided prediction, numbers or tensors [B]."""
        return [self.guidance, 1 - self.guidance] if self.guided else [1.0]

    def branches(self, x: torch.Tensor, t: torch.Tensor, **conditioning) -> list[torch.Tensor]:
        """The model's output for each branch, conditional first; each like x."""
        if self.dtype is not None:
            x = x.to(self.dtype)
        if not self.guided:
            return [self._predict(x, t, conditioning)]
        if isinstance(self.guidance, torch.Tensor) and len(x) % len(self.guidance):
            raise ValueError(f"guidance is given for {len(self.guidance)} samples, x has {len(x)}")
        missing = set(self.unconditional) - set(conditioning)
        if missing:
            raise ValueError(f"guidance needs the conditioning {sorted(missing)}; pass it to sample(...)")
        without = unconditioned(conditioning, self.unconditional)
        if self.batched:
            both = {name: _twice(name, value, without[name]) for name, value in conditioning.items()}
            return list(self._predict(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2))
        outputs, context = [], current_context()
        for branch, arguments in (("cond", conditioning), ("uncond", without)):
            with announce(context._replace(branch=branch)) if context else contextlib.nullcontext():
                outputs.append(self._predict(x, t, arguments))
        return outputs

    def _predict(self, x: torch.Tensor, t: torch.Tensor, conditioning: dict) -> torch.Tensor:
        output = self.model(x, t, **conditioning)
        if not self.learned_variance:
            return output
        if output.dim() < 2 or output.shape[1] != 2 * x.shape[1]:
            raise ValueError(
                f"learned_variance: the model's output {tuple(output.shape)} must have twice the channels of its "
                f"input {tuple(x.shape)}"
            )
        return output[:, : x.shape[1]]

    def __call__(self, x: torch.Tensor, t: torch.Tensor, **conditioning) -> torch.Tensor:
        """The guided prediction, like x; t [B] is the schedule's model time."""
        outputs = self.branches(x, t, **conditioning)
        if len(outputs) == 1:
            return outputs[0]
        weights = self.weights
        if isinstance(weights[0], torch.Tensor):
            return ops.linear_combination(outputs, torch.stack(weights, dim=-1)[:, None])[0]
        return ops.linear_combination(outputs, [weights])[0]

    def predict(self, form: str, x: torch.Tensor, t: torch.Tensor, **conditioning) -> torch.Tensor:
        """The guided prediction at times t [B] of the schedule, read as ``form``, another of the predictions.

        x = alpha(t)·x0 + sigma(t)·eps is [B, ...]; the result is like x. The time ``to`` [B] in the conditioning is one
        of the schedule too. It has gradients and tangents.
        """
        schedule = self.schedule
        if conditioning.get("to") is not None:
            conditioning["to"] = schedule.model_time(conditioning["to"]).to(x.dtype)
        return self.read(form, x, self(x, schedule.model_time(t).to(x.dtype), **conditioning), t)

    def read(self, form: str, x: torch.Tensor, output: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """An output of such a network at x [B, ...] and times t [B] of the schedule, read as ``form``."""
        if form == self.prediction:
            return output
        p, q = predictions.convert(self.prediction, form, self.schedule.alpha(t), self.schedule.sigma(t))
        return ops.linear_combination([x, output], torch.stack([p, q], dim=-1)[:, None])[0]


def branches_of(denoiser: Callable[..., torch.Tensor]) -> Callable[..., list[torch.Tensor]]:
    """Makes a call of a Denoiser, or of any other callable, and returns the output of each branch of guidance."""
    return getattr(denoiser, "branches", None) or (lambda x, t, **conditioning: [denoiser(x, t, **conditioning)])


def repeated(conditioning: dict[str, Any], count: int) -> dict[str, Any]:
    """Conditioning for ``count`` batches after one another in one; what has no batch is handed on as it is."""
    return {
        name: torch.cat([value] * count) if isinstance(value, torch.Tensor) and value.dim() else value
        for name, value in conditioning.items()
    }


def unconditioned(conditioning: dict[str, Any], unconditional: dict[str, Any]) -> dict[str, Any]:
    """The conditioning with what ``unconditional`` names replaced by its value without condition, of the same shape.

    ValueError, with the name, for a value that does not expand to that shape.
    """
    return {
        name: _like(name, unconditional[name], value) if name in unconditional else value
        for name, value in conditioning.items()
    }


def _like(name: str, without: Any, value: Any) -> Any:
    """The value without condition, like ``value`` where that is a tensor."""
    if not isinstance(value, torch.Tensor):
        return without
    if isinstance(without, (int, float)):  # by a fill: a copy would wait for the device
        return value.new_full((), without).expand_as(value)
    tensor = torch.as_tensor(without, dtype=value.dtype, device=value.device)
    if tensor.dim() == value.dim() > 0 and 1 < len(tensor) < len(value) and len(value) % len(tensor) == 0:
        tensor = tensor.repeat(len(value) // len(tensor), *[1] * (tensor.dim() - 1))  # calls of several points at once
    try:
        return tensor.expand_as(value)
    except RuntimeError:
        raise ValueError(
            f"unconditional[{name!r}] of shape {list(tensor.shape)} does not expand to the conditioning "
            f"{list(value.shape)}"
        ) from None


def _twice(name: str, value: Any, without: Any) -> Any:
    """Both values in one batch; what has no batch is handed on as it is."""
    if isinstance(value, torch.Tensor) and value.dim():
        return torch.cat([value, without])
    if value is not without:
        raise ValueError(
            f"guidance in one batch needs {name} as a tensor [B, ...], got {value!r}; say batched=False for one pass "
            "after the other"
        )
    return value
