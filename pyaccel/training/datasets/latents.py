"""Shards of latents in safetensors files, read by rows without loading the files."""

from __future__ import annotations

import bisect
import itertools
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from .broken import Reader
from .contract import as_conditioning, checked_index, refuse_flip
from .decoding import BrokenSample
from .patterns import files_of

_RENAMED = {"labels": "label"}  # the shards of `pyaccel teacher` have the plural; models take the singular


def latent_shards(
    path_or_paths: str | os.PathLike | Sequence[str | os.PathLike], scale: float = 1.0, shift: float = 0.0
) -> LatentShards:
    """Latents of safetensors files: a folder of them, a glob, a pattern with braces, or several of these.

    Each file holds ``latents`` (or ``samples``) [n, ...] of a floating dtype; every other tensor [n, ...] is
    conditioning of its name, and ``labels`` is called ``label``. A sample is (latent − shift)·scale in float32, which
    are the ``scaling_factor`` and ``shift_factor`` of diffusers' VAEs. A sample with NaN or infinite values is
    replaced by the next good one and named by a warning and in ``broken``. Raises ValueError, with the shard, where
    one is damaged or differs from the first in names, dtypes or the shape of a sample.
    """
    return LatentShards(files_of(path_or_paths, ".safetensors"), scale, shift)


class LatentShards:
    """The samples of several safetensors files, one file after another; made by :func:`latent_shards`."""

    can_flip = False

    def __init__(self, paths: Sequence[Path], scale: float, shift: float):
        self.paths, self.scale, self.shift = list(paths), scale, shift
        described = [_describe(path) for path in self.paths]
        self._main, counts = described[0][0], [count for _, count, _ in described]
        tensors = described[0][2]
        for path, (main, _, found) in zip(self.paths, described, strict=True):
            if (main, found) != (self._main, tensors):
                raise ValueError(
                    f"the shards differ: {path} has samples of {found}, and {self.paths[0]} of {tensors}; "
                    "name shards of one data set"
                )
        self.shape = tensors[self._main][0]
        self._tensor_names = list(tensors)
        self._starts = [0, *itertools.accumulate(counts)]
        if not len(self):
            raise ValueError(f"{self.paths[0]} and the {len(self.paths) - 1} shards after it hold no samples")
        self._files: dict[int, dict] = {}
        self._reader: Reader[dict[str, Tensor]] = Reader(len(self), self._read, self._name)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def broken(self) -> dict[str, str]:
        """The samples that were found broken: {shard:row: reason}."""
        return self._reader.broken

    def at(self, index: Tensor, flip: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents [b, ...] float32 and their conditioning {name: [b, ...]}; ``flip`` is refused."""
        refuse_flip(flip)
        taken = self._reader.take(checked_index(index, len(self)).tolist())
        # Stacked, so that nothing is a view into the mapped file, and no caller can write there.
        tensors = {name: torch.stack([row[name] for row in taken]) for name in taken[0]}
        latents = (tensors.pop(self._main) - self.shift) * self.scale
        return latents, {_RENAMED.get(name, name): values for name, values in tensors.items()}

    def _place(self, index: int) -> tuple[int, int]:
        shard = bisect.bisect_right(self._starts, index) - 1
        return shard, index - self._starts[shard]

    def _name(self, index: int) -> str:
        shard, row = self._place(index)
        return f"{self.paths[shard]}:{row}"

    def _read(self, index: int) -> dict[str, Tensor]:
        shard, row = self._place(index)
        values = {name: as_conditioning(tensor[row]) for name, tensor in self._tensors(shard).items()}
        for name, value in values.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise BrokenSample(f"{name} has NaN or infinite values")
        return values

    def _tensors(self, shard: int) -> dict:
        with self._lock:
            if shard not in self._files:  # a mapping costs neither memory nor a file descriptor
                file = safe_open(self.paths[shard], "pt")
                self._files[shard] = {name: file.get_slice(name) for name in self._tensor_names}
            return self._files[shard]


def _describe(path: Path) -> tuple[str, int, dict[str, tuple[tuple[int, ...], str]]]:
    """(name of the latents, number of samples, {name: (shape of a sample, dtype)}) by the header of a file."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}; make or copy it anew") from error
    listed = ", ".join(f"{name} {dtype} {list(shape)}" for name, (shape, dtype) in shapes.items()) or "nothing"
    main = [name for name in ("latents", "samples") if name in shapes]
    if len(main) != 1:
        raise ValueError(f"{path} must hold either 'latents' or 'samples' [n, ...]; it holds {listed}")
    shape, dtype = shapes[main[0]]
    if len(shape) < 2 or not dtype.startswith(("F", "BF")):
        raise ValueError(f"{path}: {main[0]} must be floats [n, ...] of two dimensions or more; it holds {listed}")
    if any(other[:1] != shape[:1] for other, _ in shapes.values()):
        raise ValueError(
            f"{path}: every tensor must have one row for each of the {shape[0]} {main[0]}; it holds {listed}"
        )
    if "labels" in shapes and "label" in shapes:
        raise ValueError(f"{path} must hold 'labels' or 'label', not both: models are told of one, label")
    return main[0], shape[0], {name: (shape[1:], dtype) for name, (shape, dtype) in sorted(shapes.items())}
