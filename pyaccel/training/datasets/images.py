"""Images in memory, and Fashion-MNIST (Xiao et al. 2017) from local files."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from .contract import checked_index, scaled_images

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class ImageData:
    """Images [N, C, H, W] uint8 with labels [N] int64, held in memory."""

    images: torch.Tensor
    labels: torch.Tensor
    can_flip: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    def at(self, index: torch.Tensor, flip: torch.Tensor | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Images [b, C, H, W] in [−1, 1] and {"label": [b]}."""
        index = checked_index(index, len(self))
        return scaled_images(self.images[index], flip), {"label": self.labels[index]}


def fashion_mnist(split: str = "train", folder: str | os.PathLike | None = None) -> ImageData:
    """The 60000 ``train`` or 10000 ``test`` images, 1×28×28.

    ``folder`` holds the four idx files, gzipped or not; without it, the environment variable PYACCEL_FASHION_MNIST
    and then Debian's place are looked at. Raises FileNotFoundError that says how to get the data.
    """
    if split not in ("train", "test"):
        raise ValueError(f"fashion_mnist: split must be 'train' or 'test', got {split!r}")
    root = Path(folder or os.environ.get("PYACCEL_FASHION_MNIST") or FASHION_MNIST_FOLDER)
    prefix = "train" if split == "train" else "t10k"
    images = _read_idx(root, f"{prefix}-images-idx3-ubyte")
    labels = _read_idx(root, f"{prefix}-labels-idx1-ubyte")
    return ImageData(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())


def _read_idx(root: Path, name: str) -> np.ndarray:
    for path, opener in ((root / f"{name}.gz", gzip.open), (root / name, open)):
        if path.exists():
            with opener(path, "rb") as file:
                raw = file.read()
            dims = raw[3]
            shape = np.frombuffer(raw, ">u4", dims, offset=4)
            return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()
    raise FileNotFoundError(
        f"Fashion-MNIST is not at {root} ({name}[.gz] is missing): install Debian's package dataset-fashion-mnist, "
        "or put the four idx files into a folder and name it with --data or PYACCEL_FASHION_MNIST"
    )
