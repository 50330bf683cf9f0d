"""Random numbers that depend on what they are for, and on nothing that was drawn before."""

from __future__ import annotations

import numpy as np
import torch

_SAMPLES = 0x5A3D  # keeps the noise of samples apart from the random numbers of training


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """A generator whose numbers depend on (seed, step, stream) alone."""
    words = np.random.SeedSequence((seed, step, stream)).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


def step_seed(*numbers: int) -> int:
    """A seed in [0, 2^63) that depends on these numbers alone, each at least 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def sample_noise(seed: int, indices: range, shape: tuple[int, ...]) -> torch.Tensor:
    """Unit Gaussian noise [len(indices), *shape] in float32; that of sample i depends on the seed and i alone.

    So a batch may be split as memory allows: the noise is the same to the bit.
    """
    if seed < 0 or (indices and min(indices) < 0):
        raise ValueError(f"seed and index must not be negative, got {seed} and {indices}")
    noise = np.empty((len(indices), *shape), dtype=np.float32)
    for row, index in zip(noise, indices, strict=True):
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((_SAMPLES, seed, index))))
        generator.standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(noise)
