"""One step's data on one rank, and its random numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..denoiser import unconditioned
from ..seeding import step_generator, step_seed

_PLACES = 1 << 24  # samples in a batch, at most
_BATCH = 0xBA7C  # keeps the noise of batches apart from other numbers of the step
_UNIFORM = 7  # streams of the generators on the CPU; those below are the data's


class Batch:
    """Data ``x`` [b, ...] with ``conditioning`` {name: [b, ...]}, and for pairs the ``noise`` [b, ...] x was made of.

    ``step`` is that of the training, which has ``steps``. Its random numbers depend on the seed, the step, the place of
    a sample in the batch of all ranks together, and on which draw of the step it is; so they do not change with the
    number of ranks nor with the accumulation of gradients, nor after a resume.
    """

    def __init__(
        self,
        x: Tensor,
        conditioning: dict[str, Tensor] | None = None,
        *,
        step: int = 0,
        steps: int = 1,
        seed: int = 0,
        places: range | None = None,
        size: int | None = None,
        noise: Tensor | None = None,
    ):
        self.x, self.conditioning, self.noise = x, conditioning or {}, noise
        self.step, self.steps, self.seed = step, steps, seed
        self.places = range(len(x)) if places is None else places
        self.size = len(x) if size is None else size
        self._base = step_seed(seed, step, _BATCH) // _PLACES * _PLACES
        self._draws = 0

    def __len__(self) -> int:
        return len(self.x)

    def normal(self, *shape: int) -> Tensor:
        """Unit Gaussian noise like x; [b, *shape] where sizes are given."""
        self._draws += 1
        full = (len(self), *shape) if shape else self.x.shape
        seeds = [self._base + place for place in self.places]
        return ops.normal(full, seeds, self._draws, dtype=self.x.dtype, device=self.x.device)

    def gaussians(self) -> Tensor:
        """One unit Gaussian number for each sample, [b]."""
        return self.normal(1).flatten()

    def uniform(self) -> Tensor:
        """One number in (0, 1) for each sample, [b], one in each of as many equal strata as there are samples.

        The strata are those of the batch of all ranks; numbers so drawn have less variance than independent ones.
        """
        self._draws += 1
        generator = step_generator(self.seed, self.step, stream=_UNIFORM + self._draws)
        strata = torch.randperm(self.size, generator=generator)
        numbers = (strata + torch.rand(self.size, generator=generator, dtype=torch.float64)) / self.size
        mine = numbers[self.places.start : self.places.stop].clamp_(1e-6, 1 - 1e-6).to(self.x.dtype)
        if self.x.is_cuda:  # from pinned memory the host does not wait for what the GPU is doing
            return mine.pin_memory().to(self.x.device, non_blocking=True)
        return mine

    def number(self) -> float:
        """One number in [0, 1) for the whole batch, the same on every rank."""
        self._draws += 1
        return float(torch.rand((), generator=step_generator(self.seed, self.step, stream=_UNIFORM + self._draws)))

    def dropped(self, without: dict[str, Any], probability: float) -> dict[str, Tensor]:
        """The conditioning, replaced by its value ``without`` condition in a share of samples (Ho & Salimans 2022)."""
        if not probability or not without or not self.conditioning:
            return self.conditioning
        chosen, nothing = self.uniform() < probability, unconditioned(self.conditioning, without)
        return {
            name: torch.where(chosen.view(-1, *[1] * (given.dim() - 1)), nothing[name], given)
            if name in without
            else given
            for name, given in self.conditioning.items()
        }
