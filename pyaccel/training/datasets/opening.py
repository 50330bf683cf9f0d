"""Data by a text, as on a command line."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from .contract import Dataset
from .decoding import IMAGE_SUFFIXES
from .folders import image_folder, images_in, is_image, visible_entries
from .images import fashion_mnist
from .latents import latent_shards
from .patterns import contents, expand_braces
from .tars import webdataset_shards

KINDS = (
    "fashion-mnist, a folder of images, or of .safetensors or .tar files, one such file, "
    "or a pattern of them such as 'train-{000..099}.tar' or 'latents/*.safetensors'"
)


def open_dataset(text: str, size: int | None = None, channels: int | None = None) -> Dataset:
    """The data that ``text`` names: "fashion-mnist", or a path or pattern of one of the kinds.

    ``size`` and ``channels`` are what samples must have: images are made so, other data are checked. Folders of
    images need ``size``, and have 3 channels unless ``channels`` says 1. Raises ValueError or FileNotFoundError that
    say what was found.
    """
    text = os.fspath(text)
    dataset = _open(text, size, 3 if channels is None else channels)
    wanted = (channels or dataset.shape[0], *((size, size) if size else dataset.shape[1:]))
    if dataset.shape != wanted:
        raise ValueError(
            f"{text} has samples of {list(dataset.shape)}, and {list(wanted)} was asked for: name other data, "
            "or another model"
        )
    return dataset


def _open(text: str, size: int | None, channels: int) -> Dataset:
    if text == "fashion-mnist":
        return fashion_mnist()
    if "://" in text or text.startswith("pipe:"):
        raise ValueError(f"{text}: data are read from local files; copy or mount them, and name the folder")
    kind = _kind_of_folder(Path(text)) if os.path.isdir(text) else Path(text).suffix
    if kind == "fashion-mnist":
        return fashion_mnist(folder=text)
    if kind == ".safetensors":
        return latent_shards(text)
    if kind == ".tar":
        return webdataset_shards(text, size, channels)
    if kind == "images":
        if size is None:
            raise ValueError(f"{text} is a folder of images: say the size that they shall have")
        return image_folder(text, size, channels)
    there = os.path.exists(text) or (glob.has_magic(text) and glob.glob(text))
    found = f"it is a {kind or 'nameless'} file" if there else f"there is no such file; {_nearby(text)}"
    raise ValueError(f"{text} names no data that can be read ({found}); data are {KINDS}")


def _kind_of_folder(folder: Path) -> str:
    folders, files = visible_entries(folder)
    kinds = [suffix for suffix in (".safetensors", ".tar") if any(name.endswith(suffix) for name in files)]
    if any(name.startswith("train-images-idx3-ubyte") for name in files):
        kinds.append("fashion-mnist")
    # Previews may lie beside shards; images in subfolders beside them are data.
    in_subfolders = any(next(images_in(folder / name), None) for name in folders)
    if in_subfolders or (not kinds and any(map(is_image, files))):
        kinds.append("images")
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise ValueError(f"{folder} holds data of several kinds ({', '.join(kinds)}); name one of them by a pattern")
    raise ValueError(
        f"{folder} holds no data that can be read, but {contents(folder)}; data are {KINDS}, "
        f"and images are {', '.join(IMAGE_SUFFIXES)}"
    )


def _nearby(text: str) -> str:
    parent = Path(expand_braces(text)[0]).parent
    return f"{parent} holds {contents(parent)}"
