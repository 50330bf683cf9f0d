"""A kept region: where the mask is 0, each sample that the network sees is the given image at that noise level."""

from __future__ import annotations

import torch

from .. import ops
from .plan import Plan, Stage


class Kept:
    """x ← mask·x + (1 − mask)·(alpha·image + sigma·noise), with the noise that the run starts from.

    This is the replacement of Song et al. 2021 (appendix I.2) with one noise for the whole run, so that the known
    region follows one trajectory.
    """

    def __init__(self, plan: Plan, image: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor):
        self.image, self.mask, self.noise, self.plan = image, mask, noise, plan

    @staticmethod
    def of(plan: Plan, noise: torch.Tensor, image: torch.Tensor | None, mask: torch.Tensor | None) -> Kept | None:
        """None without a mask; ValueError for a mask without image or for shapes that do not fit."""
        if image is not None and plan.rising:
            raise ValueError("image= is for plans from noise to data; a rising plan is handed the sample itself")
        if mask is None:
            return None
        if image is None:
            raise ValueError("mask= needs image=, what is kept where the mask is 0")
        if not isinstance(mask, torch.Tensor) or mask.is_complex():
            got = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise TypeError(f"mask must be a real tensor, got {got}")
        if not bool(((mask >= 0) & (mask <= 1)).all()):
            raise ValueError("mask must lie in [0, 1]: 1 where to make the sample anew, 0 where the image stays")
        state = torch.float64 if noise.dtype == torch.float64 else torch.float32
        try:
            mask = mask.to(noise.device, state)
            full = mask.expand(noise.shape)
        except RuntimeError:
            raise ValueError(
                f"mask of shape {tuple(mask.shape)} does not broadcast to the noise, {tuple(noise.shape)}"
            ) from None
        # One for whole images the kernel takes as it is, shared by channels and samples; others are spread out once.
        if mask.shape[-2:] != noise.shape[-2:]:
            mask = full.contiguous()
        return Kept(plan, image.to(noise.device, state), mask, noise.to(state))

    def restore(self, registers: dict[int, torch.Tensor], following: Stage | None) -> None:
        """Puts the known region into what the next stage's calls see, or into the result after the last stage."""
        if following is None:
            alpha, sigma = self.plan.ends[1]
            self._into(registers, self.plan.output, alpha, sigma)
        else:
            for call in following.calls:
                self._into(registers, call.input, call.alpha, call.sigma)

    def _into(self, registers: dict[int, torch.Tensor], register: int, alpha: float, sigma: float) -> None:
        registers[register] = ops.blend(registers[register], self.mask, self.image, self.noise, alpha, sigma)
