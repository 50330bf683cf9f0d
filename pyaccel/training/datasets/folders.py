"""Folders of images, decoded when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .broken import Reader
from .contract import checked_index, scaled_images
from .decoding import IMAGE_SUFFIXES, check_image_shape, read_image
from .patterns import contents


def image_folder(path: str | os.PathLike, size: int, channels: int = 3) -> ImageFolder:
    """The images (PNG, JPEG, WebP, BMP) below a folder, cropped to their middle square and resized to ``size``.

    Where they lie in subfolders, these are the classes, sorted by name: the conditioning is {"label": int64}, the
    number of the subfolder. Without subfolders there is none. Hidden files and folders are left out. A broken image
    is replaced by the next good one and named by a warning and in ``broken``. Raises FileNotFoundError where there
    is no folder or no image in it, and ValueError where images lie both in subfolders and beside them.
    """
    check_image_shape(size, channels)
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; name one that holds images")
    direct, classes = images_below(root)
    if direct and classes:
        raise ValueError(
            f"{root} holds images of its own ({direct[0]}, ...) and images in subfolders ({next(iter(classes))}, ...): "
            "move all into subfolders, which are the classes, or none"
        )
    if not direct and not classes:
        raise FileNotFoundError(
            f"{root} has no images ({', '.join(IMAGE_SUFFIXES)}), nor have its subfolders; it holds {contents(root)}"
        )
    return ImageFolder(root, {"": direct} if direct else classes, size, channels)


class ImageFolder:
    """Images of files, in the order of their classes and names; made by :func:`image_folder`."""

    can_flip = True

    def __init__(self, root: Path, files: dict[str, list[str]], size: int, channels: int):
        self.root, self.shape = root, (channels, size, size)
        self.classes: tuple[str, ...] = () if "" in files else tuple(files)
        self._files = [name for names in files.values() for name in names]
        self._labels = torch.arange(len(files)).repeat_interleave(torch.tensor([len(n) for n in files.values()]))
        self._reader: Reader[tuple[np.ndarray, int]] = Reader(len(self), self._read, self._path)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def broken(self) -> dict[str, str]:
        """The images that were found broken: {path: reason}."""
        return self._reader.broken

    def at(self, index: Tensor, flip: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Images [b, C, size, size] in [−1, 1], and {"label": [b]} where there are classes."""
        taken = self._reader.take(checked_index(index, len(self)).tolist())
        images = scaled_images(torch.from_numpy(np.stack([image for image, _ in taken])), flip)
        if not self.classes:
            return images, {}
        return images, {"label": self._labels[[number for _, number in taken]]}

    def _path(self, index: int) -> str:
        return os.path.join(self.root, self._files[index])

    def _read(self, index: int) -> tuple[np.ndarray, int]:
        # With its number: a replacement comes with its own label.
        return read_image(self._path(index), self.shape[1], self.shape[0]), index


def images_below(root: Path) -> tuple[list[str], dict[str, list[str]]]:
    """(images right in ``root``, {subfolder: images at any depth below it}), all sorted and relative to ``root``."""
    folders, direct = visible_entries(root)
    below = {name: sorted(os.path.join(name, image) for image in images_in(root / name)) for name in folders}
    return [name for name in direct if is_image(name)], {name: images for name, images in below.items() if images}


def visible_entries(folder: str | os.PathLike) -> tuple[list[str], list[str]]:
    """(folders, files) in a folder, sorted, without those that are hidden."""
    with os.scandir(folder) as entries:
        visible = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    return [name for name, is_folder in visible if is_folder], [name for name, is_folder in visible if not is_folder]


def images_in(folder: str | os.PathLike) -> Iterator[str]:
    """The images at any depth below a folder, relative to it, as they are found; links to folders are not followed."""
    for path, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            if is_image(name):
                yield os.path.relpath(os.path.join(path, name), folder)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)
