"""The order of a training: which data batch k has, and which of them are mirrored, by seed and step alone."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...seeding import step_generator


def epoch_indices(length: int, step: int, size: int, seed: int, stream: int = 1) -> Tensor:
    """Indices [size] of batch ``step``: every datum comes at most once an epoch, in an order of seed and epoch alone.

    An epoch has ⌊length / size⌋ batches; what is left over when ``size`` does not divide ``length`` is left out, and
    it is other data in each epoch. So training that goes on from a checkpoint sees the batches that it would have
    seen. Raises ValueError where there are fewer than ``size`` data.
    """
    if size < 1 or step < 0:
        raise ValueError(f"batches need size >= 1 and step >= 0, got size {size} and step {step}")
    if size > length:
        raise ValueError(f"a batch of {size} was asked for, but there are only {length} samples")
    epoch, place = divmod(step, length // size)
    return _order(length, epoch, seed, stream)[place * size : (place + 1) * size].clone()


def step_flips(step: int, size: int, seed: int) -> Tensor:
    """Which samples [size] bool of batch ``step`` are mirrored: each with probability 1/2."""
    return torch.rand(size, generator=step_generator(seed, step, stream=2)) < 0.5


# Kept for the steps of an epoch: a permutation of a million takes longer than a training step may. Two trainings
# side by side, each with a prefetcher that has gone on to its next epoch, need four.
@lru_cache(maxsize=4)
def _order(length: int, epoch: int, seed: int, stream: int) -> Tensor:
    return torch.randperm(length, generator=step_generator(seed, epoch, stream))
