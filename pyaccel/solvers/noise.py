"""Where the noise of a stochastic plan comes from: drawn in the kernel by seed, or handed in as tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch

from .plan import Plan


class KernelNoise:
    """Counter-based noise by the seed of each sample, drawn inside the launches: nothing is stored."""

    in_kernel = True

    def __init__(self, seeds: list[int]):
        self.seeds = seeds

    def tensors(self, draws: list[int]) -> list[torch.Tensor]:
        """None: the kernel draws it."""
        return []


class GivenNoise:
    """Noise from torch's generators or from a sampler; a draw is kept for as long as somebody will need it again."""

    in_kernel = False
    seeds = None

    def __init__(self, plan: Plan, make: Callable[[int], torch.Tensor]):
        self._make, self._kept = make, {}
        uses = [d for row in plan.start for d in row.noise] + [d for stage in plan.stages for d in stage.draws]
        self._left = Counter(uses)

    def tensors(self, draws: list[int]) -> list[torch.Tensor]:
        """The noise of ``draws``."""
        result = []
        for d in draws:
            tensor = self._kept.pop(d, None)
            tensor = self._make(d) if tensor is None else tensor
            self._left[d] -= 1
            if self._left[d] > 0:
                self._kept[d] = tensor
            result.append(tensor)
        return result


def noise_source(plan: Plan, noise: torch.Tensor, seed, generator, noise_sampler) -> KernelNoise | GivenNoise:
    """By whichever of the three is given; ValueError when a stochastic plan has none, or more than one is."""
    given = [
        n for n, v in (("seed", seed), ("generator", generator), ("noise_sampler", noise_sampler)) if v is not None
    ]
    if len(given) > 1:
        raise ValueError(f"the noise can come from one source, got {' and '.join(given)}")
    if not plan.draws:
        return KernelNoise([])
    if not given:
        raise ValueError(
            f"{plan.solver} adds noise on its way: pass seed=0 (or a seed for each sample), generator= or "
            "noise_sampler="
        )
    if seed is not None:
        return KernelNoise(seeds_of(seed, len(noise)))
    dtype = torch.float64 if noise.dtype == torch.float64 else torch.float32
    if noise_sampler is not None:

        def make(draw: int) -> torch.Tensor:
            d = plan.draws[draw]
            tensor = torch.as_tensor(noise_sampler(d.sigma_from, d.sigma_to))
            if tensor.shape != noise.shape:
                raise ValueError(
                    f"noise_sampler returned shape {tuple(tensor.shape)} for draw {draw}, expected {tuple(noise.shape)}"
                )
            return tensor.to(noise.device, dtype)

        return GivenNoise(plan, make)
    generators = list(generator) if isinstance(generator, (list, tuple)) else [generator]
    if not all(isinstance(g, torch.Generator) for g in generators):
        raise TypeError(
            f"generator must be a torch.Generator or a list of them, one for each sample, got {generator!r}"
        )
    if isinstance(generator, torch.Generator):
        return GivenNoise(plan, lambda _: _randn(noise.shape, generator, dtype).to(noise.device))
    if len(generators) != len(noise):
        raise ValueError(f"there are {len(generators)} generators for {len(noise)} samples")
    return GivenNoise(
        plan, lambda _: torch.stack([_randn(noise.shape[1:], g, dtype) for g in generators]).to(noise.device)
    )


def seeds_of(seed: int | Sequence[int], batch: int) -> list[int]:
    """One seed for each sample: those given, or seed, seed + 1, ..."""
    if isinstance(seed, (torch.Tensor, np.ndarray, np.generic)):
        seed = seed.tolist()
    if isinstance(seed, int) and not isinstance(seed, bool):
        seeds = [seed + i for i in range(batch)]
    else:
        if not isinstance(seed, Sequence) or isinstance(seed, str):
            raise TypeError(f"seed must be a whole number or a list of them, got {seed!r}")
        seeds = [s.item() if isinstance(s, np.generic) else s for s in seed]
    if len(seeds) != batch:
        raise ValueError(f"there are {len(seeds)} seeds for {batch} samples")
    for s in seeds:
        if not isinstance(s, int) or isinstance(s, bool) or not 0 <= s < 2**63:
            raise ValueError(f"a seed must be a whole number from 0 to 2^63 − 1, got {s!r}")
    return seeds


def _randn(shape, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=dtype)
