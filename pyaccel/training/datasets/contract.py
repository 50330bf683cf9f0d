"""What every kind of data offers to a training, and the checks that they share."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Dataset(Protocol):
    """Samples by their indices. What an index gives depends on the data alone, whoever asks and whenever."""

    shape: tuple[int, ...]
    """Of one sample, without the batch."""
    can_flip: bool
    """Whether samples may be mirrored: images may, latents may not."""

    def __len__(self) -> int: ...

    def at(self, index: Tensor, flip: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples [b, ...] float32 (images in [−1, 1]) and their conditioning {name: [b, ...]}, on the CPU.

        ``index`` [b] says which; ``flip`` [b] bool says which of them to mirror. All tensors are the caller's own.
        """


def checked_index(index: Tensor, length: int) -> Tensor:
    """``index`` itself; IndexError or ValueError where it is no list of indices of ``length`` samples."""
    if index.dim() != 1 or not len(index) or index.dtype != torch.int64 or index.device.type != "cpu":
        given = f"{tuple(index.shape)} {index.dtype} on {index.device}"
        raise ValueError(f"indices of samples must be int64 [b] on the CPU with b >= 1, got {given}")
    if not 0 <= int(index.min()) <= int(index.max()) < length:
        raise IndexError(f"indices {int(index.min())} to {int(index.max())} were asked for of {length} samples")
    return index


def scaled_images(images: Tensor, flip: Tensor | None) -> Tensor:
    """Bytes [b, C, H, W] as float32 in [−1, 1], mirrored where ``flip`` [b] says so."""
    images = images.float().div_(127.5).sub_(1)
    if flip is not None:
        if flip.dtype != torch.bool or flip.shape != images.shape[:1]:
            raise ValueError(f"flip must be bool [{len(images)}], got {tuple(flip.shape)} {flip.dtype}")
        images[flip] = images[flip].flip(-1)
    return images


def refuse_flip(flip: Tensor | None) -> None:
    """ValueError where latents are to be mirrored: a mirrored latent is not the latent of the mirrored image."""
    if flip is not None:
        raise ValueError("latents cannot be mirrored: leave flip out (flip=False in the training's settings)")


def as_conditioning(values: Tensor) -> Tensor:
    """Floats as float32 and integers as int64, which is what models read; bool stays."""
    if values.is_floating_point():
        return values.float()
    return values if values.dtype == torch.bool else values.long()
