"""Tar files in the layout of WebDataset, read by the places of their members."""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .broken import Reader
from .contract import as_conditioning, checked_index, refuse_flip, scaled_images
from .decoding import IMAGE_SUFFIXES, BrokenSample, check_image_shape, read_array, read_image
from .patterns import files_of
from .tar_index import tar_members

_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # WebDataset: the key ends at the first dot of the base name
_MAIN = ("npy", *(suffix[1:] for suffix in IMAGE_SUFFIXES))


def webdataset_shards(
    pattern: str | os.PathLike | Sequence[str | os.PathLike],
    size: int | None = None,
    channels: int = 3,
    scale: float = 1.0,
    shift: float = 0.0,
) -> TarShards:
    """Samples of tar files: ``train-{000..099}.tar``, a glob, a folder, one file, or several of these.

    The members KEY.* are the sample KEY: KEY.npy is a latent, which is read as (latent − shift)·scale, or KEY.png,
    .jpg, .webp, .bmp an image, cropped and resized to ``size`` (without it, as it is). KEY.cls, an integer in digits,
    is the conditioning ``label``, and KEY.NAME.npy is that of NAME. Other members are left out, and nothing is
    unpickled. A broken sample is replaced by the next good one and named by a warning and in ``broken``. Raises
    ValueError, with the shard or the sample, where samples differ in what they have or in shape.
    """
    return TarShards(files_of(pattern, ".tar"), size, channels, scale, shift)


class TarShards:
    """The samples of several tar files, one file after another; made by :func:`webdataset_shards`."""

    def __init__(self, paths: Sequence[Path], size: int | None, channels: int, scale: float, shift: float):
        self.paths, self.size, self.channels, self.scale, self.shift = list(paths), size, channels, scale, shift
        self._keys: list[str] = []
        self._fields: tuple[str, ...] = ()
        self._starts, places = [0], []
        for path in self.paths:
            places += self._add(path)
            self._starts.append(len(self._keys))
        if not self._keys:
            raise ValueError(f"{self.paths[0]} and the {len(self.paths) - 1} shards after it hold no samples")
        self._places = np.array(places, np.int64)  # [samples, fields, (first byte, bytes)]
        self._main = self._fields[0]
        self.can_flip = self._main != "npy"
        if self.can_flip:
            check_image_shape(size, channels)
        self._reader: Reader[tuple[str, dict[str, np.ndarray]]] = Reader(len(self), self._read, self._name)
        name, values = self._reader.take([0])[0]
        self._first, self._shapes = name, {field: value.shape for field, value in values.items()}
        self.shape = self._shapes[self._main]

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def broken(self) -> dict[str, str]:
        """The samples that were found broken: {shard:key: reason}."""
        return self._reader.broken

    def at(self, index: Tensor, flip: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Images [b, C, H, W] in [−1, 1] or latents [b, ...], float32, and their conditioning {name: [b, ...]}."""
        if not self.can_flip:
            refuse_flip(flip)
        taken = self._reader.take(checked_index(index, len(self)).tolist())
        main, *others = (self._stack(field, taken) for field in self._fields)
        names = ["label" if field == "cls" else field.removesuffix(".npy") for field in self._fields[1:]]
        conditioning = {name: as_conditioning(values) for name, values in zip(names, others, strict=True)}
        return scaled_images(main, flip) if self.can_flip else (main.float() - self.shift) * self.scale, conditioning

    def _add(self, path: Path) -> list[list[tuple[int, int]]]:
        """The places of the fields of each sample of a shard, whose keys are remembered."""
        samples: dict[str, dict[str, tuple[int, int]]] = {}
        for name, start, size in tar_members(path):
            match = _NAME.fullmatch(name)
            if match is None:
                continue
            field, fields = match[2].lower(), samples.setdefault(match[1], {})
            if field in fields:
                raise ValueError(f"{path} has {name} twice: give each sample a key of its own")
            fields[field] = (start, size)
        places = []
        for key, fields in samples.items():
            main = [field for field in _MAIN if field in fields]
            if len(main) != 1:
                raise ValueError(
                    f"{path}: the sample {key} must have one of .{', .'.join(_MAIN)}; it has .{', .'.join(fields)}"
                )
            read = (*main, *sorted(field for field in fields if field == "cls" or field.endswith(".npy")))
            self._fields = self._fields or read
            if read != self._fields:
                raise ValueError(
                    f"{path}: the sample {key} has .{', .'.join(read)}, and those before it have "
                    f".{', .'.join(self._fields)}: all must have the same"
                )
            if {"cls", "label.npy"} <= fields.keys():
                raise ValueError(
                    f"{path}: the sample {key} has .cls and .label.npy, which are both the label; keep one"
                )
            places.append([fields[field] for field in read])
        self._keys += samples
        return places

    def _name(self, index: int) -> str:
        return f"{self.paths[self._shard(index)]}:{self._keys[index]}"

    def _shard(self, index: int) -> int:
        return bisect.bisect_right(self._starts, index) - 1

    def _read(self, index: int) -> tuple[str, dict[str, np.ndarray]]:
        contents = []
        with self.paths[self._shard(index)].open("rb") as file:
            for start, size in self._places[index].tolist():
                file.seek(start)
                contents.append(file.read(size))
        return self._name(index), {
            field: self._decode(field, content) for field, content in zip(self._fields, contents, strict=True)
        }

    def _decode(self, field: str, content: bytes) -> np.ndarray:
        if field == "cls":
            try:
                return np.array(int(content), np.int64)
            except (ValueError, OverflowError):
                raise BrokenSample(f"the label {content[:20]!r} is no 64-bit integer") from None
        if not field.endswith("npy"):
            return read_image(content, self.size, self.channels)
        array = read_array(content)
        if not np.isfinite(array).all():
            raise BrokenSample(f".{field} has NaN or infinite values")
        return array

    def _stack(self, field: str, taken: list[tuple[str, dict[str, np.ndarray]]]) -> Tensor:
        for name, values in taken:
            if values[field].shape != self._shapes[field]:
                raise ValueError(
                    f".{field} of {name} has the shape {values[field].shape}, and that of {self._first} "
                    f"{self._shapes[field]}: samples must agree; for images, say a size"
                )
        return torch.from_numpy(np.stack([values[field] for _, values in taken]))
