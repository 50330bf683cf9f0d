"""What a probed step draws and clamps, caught in the thread that probes it; no module is patched.

A draw of noise is answered with a unit vector of its own, so that the step's result shows its coefficient. Clamping,
the one thing that the schedulers of the field do to a tensor that is not linear, is cut out: what is clamped is
recorded, and the result of the clamp is again a unit vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from ..plan import Threshold


class NotLinear(ValueError):
    """A step that is not a linear combination of tensors; the message says why."""


class NoiseDraw(NamedTuple):
    """Unit Gaussian noise that a step asks for: of ``dtype``, by ``torch.randn`` (``normal``), ``torch.randn_like``
    (``like``) or the scheduler's own ``noise_sampler`` between two values of sigma (``sampler``)."""

    kind: str
    dtype: torch.dtype
    sigmas: tuple[float, float] | None = None


class Clamp(NamedTuple):
    """``value`` goes through the map ``threshold``."""

    value: torch.Tensor
    threshold: Threshold


_RANDOM = {
    getattr(torch, name)
    for name in ("rand", "rand_like", "randint", "randint_like", "randperm", "bernoulli", "poisson", "multinomial")
}
_CLAMPS = {torch.clamp, torch.clip, torch.Tensor.clamp, torch.Tensor.clip}
_CLAMPS_IN_PLACE = {torch.Tensor.clamp_, torch.Tensor.clip_, torch.clamp_}


class Capture(TorchFunctionMode):
    """Within, draws and clamps of tensors of ``shape`` are recorded and answered with ``fresh(dtype)``.

    ``clamps`` False lets clamps happen.
    """

    def __init__(self, shape: torch.Size, fresh: Callable[[torch.dtype], torch.Tensor], clamps: bool = True):
        super().__init__()
        self.shape, self.fresh, self.clamps = shape, fresh, clamps
        self.draws: list[NoiseDraw] = []
        self.clamped: list[Clamp] = []
        self.order: list[NoiseDraw | Clamp] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.randn:
            size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            if tuple(size) == tuple(self.shape):
                return self.draw("normal", kwargs.get("dtype") or torch.get_default_dtype())
        elif func is torch.randn_like and args[0].shape == self.shape:
            return self.draw("like", kwargs.get("dtype") or args[0].dtype)
        elif func in _RANDOM or func is torch.normal or func is torch.Tensor.normal_:
            raise NotLinear(f"it draws random numbers by torch.{func.__name__}; only randn and randn_like can be fused")
        elif self.clamps and args and isinstance(args[0], torch.Tensor) and args[0].shape == self.shape:
            if func in _CLAMPS:
                low = kwargs.get("min", args[1] if len(args) > 1 else None)
                high = kwargs.get("max", args[2] if len(args) > 2 else None)
                return self.clamp(args[0], _limit(low, high))
            if func in _CLAMPS_IN_PLACE:
                raise NotLinear("it clamps a tensor in place")
        return func(*args, **kwargs)

    def draw(self, kind: str, dtype: torch.dtype, sigmas=None) -> torch.Tensor:
        """The answer to a draw."""
        self.order.append(NoiseDraw(kind, dtype, sigmas))
        self.draws.append(self.order[-1])
        return self.fresh(dtype)

    def clamp(self, value: torch.Tensor, threshold: Threshold) -> torch.Tensor:
        """The answer to a clamp."""
        self.order.append(Clamp(value, threshold))
        self.clamped.append(self.order[-1])
        return self.fresh(value.dtype)


def _limit(low, high) -> Threshold:
    if low is None or high is None or float(low) != -float(high) or not float(high) > 0:
        raise NotLinear(f"it clamps to [{low}, {high}]; only a range from −a to a can be fused")
    return Threshold(float(high))
