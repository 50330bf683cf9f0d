"""Teacher data: samples of a good solver with the seeds of their noise, in shards that are checked and can be resumed.

A folder holds ``teacher.json``, which says how the samples were made, and shards ``00000.safetensors``, ... with
``samples`` [n, ...] float32 and ``conditioning/NAME`` [n, ...] for each argument that the network was given with them;
the noise of sample i follows from the seed and i (:func:`pyaccel.seeding.sample_noise`) and is not stored. Each shard
carries a checksum of its tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomically
from ..seeding import sample_noise
from .checkpoints import flatten, load_tensors, save_tensors, unflatten
from .datasets import epoch_indices

SCHEMA = 2
Conditioning = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TeacherSpec:
    """How teacher data are made; equal specs give equal data. ``dtype`` is the network's, by its name in torch."""

    model: str
    solver: str
    steps: int
    count: int
    seed: int
    guidance: float = 1.0
    shard: int = 250
    options: dict[str, Any] = field(default_factory=dict)
    schedule: list = field(default_factory=list)
    dtype: str = "float32"

    def __post_init__(self):
        if self.count < 1 or self.shard < 1:
            raise ValueError(f"teacher data need count >= 1 and shard >= 1, got {self.count} and {self.shard}")

    def shards(self) -> list[range]:
        """The samples of each shard."""
        return [range(i, min(self.count, i + self.shard)) for i in range(0, self.count, self.shard)]


@dataclass(frozen=True)
class TeacherData:
    """``noise`` and ``samples`` [N, ...] float32, ``conditioning`` of tensors [N, ...] that the network was given.

    ``first`` is the number of the first one.
    """

    noise: torch.Tensor
    samples: torch.Tensor
    conditioning: Conditioning = field(default_factory=dict)
    first: int = 0

    def __len__(self) -> int:
        return len(self.noise)

    def at(self, index: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
        """(noise, samples, conditioning) of these, as views for a slice."""
        return self.noise[index], self.samples[index], {name: value[index] for name, value in self.conditioning.items()}

    def split(self, held_out: int) -> tuple[TeacherData, TeacherData]:
        """All but the last ``held_out`` samples, and these."""
        if not 0 < held_out < len(self):
            raise ValueError(f"{held_out} of {len(self)} samples cannot be held out; make more with pyaccel teacher")
        at = len(self) - held_out
        return self.head(at), TeacherData(*self.at(slice(at, None)), self.first + at)

    def head(self, count: int) -> TeacherData:
        """The first ``count`` samples."""
        return TeacherData(*self.at(slice(count)), self.first)

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, Conditioning]]:
        """:meth:`at` of all samples in order, ``size`` at a time."""
        return (self.at(slice(i, i + size)) for i in range(0, len(self), size))

    def to(self, device) -> TeacherData:
        """The same data there."""
        there = {name: value.to(device) for name, value in self.conditioning.items()}
        return TeacherData(self.noise.to(device), self.samples.to(device), there, self.first)

    def indices(self, step: int, size: int, seed: int) -> torch.Tensor:
        """Batch ``step`` as indices [size]; see :func:`.datasets.epoch_indices`."""
        return epoch_indices(len(self), step, size, seed, stream=3)


def shard_path(folder: str | os.PathLike, number: int) -> Path:
    """The file of a shard."""
    return Path(folder) / f"{number:05d}.safetensors"


def generate_teacher(
    folder: str | os.PathLike,
    spec: TeacherSpec,
    sample: Callable[[torch.Tensor, range], tuple[torch.Tensor, Conditioning]],
    shape: tuple[int, ...],
    *,
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> list[int]:
    """Makes the shards that are missing or damaged and returns their numbers.

    ``sample(noise, indices)`` gives (samples, conditioning). With ``ranks`` each makes every ``ranks``-th shard. Raises
    ValueError for a folder that holds data of another spec, and for conditioning that is not one tensor a sample.
    """
    folder, path = Path(folder), Path(folder) / "teacher.json"
    known = {"kind": "pyaccel teacher data", "schema": SCHEMA, **asdict(spec)}
    if path.exists():
        there = read_spec(folder)
        if there != spec:
            changed = [f"{k}: {v!r} there, {asdict(spec)[k]!r} now" for k, v in asdict(there).items() if v != known[k]]
            raise ValueError(f"{folder} holds teacher data made otherwise ({'; '.join(changed)}); use another --out")
    else:
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(known, indent=1)))
    made = []
    for number, indices in list(enumerate(spec.shards()))[rank::ranks]:
        if _fault(folder, number, len(indices)) == "":
            progress(len(indices))
            continue
        samples, conditioning = sample(sample_noise(spec.seed, indices, shape), indices)
        for name, value in conditioning.items():
            if not isinstance(value, torch.Tensor) or value.shape[:1] != (len(indices),):
                got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise ValueError(f"conditioning {name!r} must be a tensor [{len(indices)}, ...], got {got}")
        tensors = {"samples": samples.float(), **flatten("conditioning", conditioning)}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        if not torch.isfinite(tensors["samples"]).all():
            raise FloatingPointError(f"the teacher's samples of shard {number} have NaN or infinite values")
        save_tensors(shard_path(folder, number), tensors, {"checksum": _checksum(tensors)})
        made.append(number)
        progress(len(indices))
    return made


def read_spec(folder: str | os.PathLike) -> TeacherSpec:
    """How the data of a folder were made; ValueError where it holds none."""
    path = Path(folder) / "teacher.json"
    try:
        facts = json.loads(path.read_text())
        if facts.pop("kind") != "pyaccel teacher data":
            raise ValueError
        schema = facts.pop("schema")
        spec = TeacherSpec(**facts)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no teacher data; make them: pyaccel teacher --out {folder}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged or of another version of pyaccel; use another folder") from None
    if schema != SCHEMA:
        raise ValueError(
            f"{folder} holds teacher data of schema {schema}, and this pyaccel reads schema {SCHEMA}; make them anew "
            "in another folder: pyaccel teacher"
        )
    return spec


def faults(folder: str | os.PathLike) -> dict[int, str]:
    """What is wrong with shards: their numbers, and "missing" or "damaged"."""
    spec = read_spec(folder)
    found = {number: _fault(folder, number, len(indices)) for number, indices in enumerate(spec.shards())}
    return {number: fault for number, fault in found.items() if fault}


def load_teacher(
    folder: str | os.PathLike,
    *,
    model: str | None = None,
    schedule: list | None = None,
    guidance: float | None = None,
    dtype: str | None = None,
) -> tuple[TeacherData, TeacherSpec]:
    """All samples with their noise and conditioning, verified.

    Raises ValueError, with the numbers of the shards, where some are missing or damaged, and where the data are of
    another model, schedule, guidance or dtype than was asked for.
    """
    spec = read_spec(folder)
    if model is not None and spec.model != model:
        raise ValueError(f"{folder} holds teacher data of {spec.model}, and they are wanted of {model}")
    if schedule is not None and spec.schedule != schedule:
        raise ValueError(f"{folder} was made on the schedule {spec.schedule}, and the model is on {schedule}")
    if guidance is not None and spec.guidance != guidance:
        raise ValueError(f"{folder} was made with guidance {spec.guidance:g}, and the solver is to be for {guidance:g}")
    if dtype is not None and spec.dtype != dtype:
        raise ValueError(f"{folder} was made by the network in {spec.dtype}, and the solver is to be for {dtype}")
    wrong = faults(folder)
    if wrong:
        listed = ", ".join(f"{shard_path('', number)} is {fault}" for number, fault in wrong.items())
        raise ValueError(f"{folder}: {listed}; the command that made them, pyaccel teacher, makes these anew")
    parts = [load_tensors(shard_path(folder, number))[0] for number in range(len(spec.shards()))]
    for number, part in enumerate(parts):
        if set(part) != set(parts[0]):
            raise ValueError(f"{folder}: {shard_path('', number)} has {sorted(part)}, the first has {sorted(parts[0])}")
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    noise = sample_noise(spec.seed, range(spec.count), tuple(tensors["samples"].shape[1:]))
    return TeacherData(noise, tensors["samples"], unflatten("conditioning", tensors)), spec


def _fault(folder, number: int, count: int) -> str:
    try:
        tensors, metadata = load_tensors(shard_path(folder, number))
    except FileNotFoundError:
        return "missing"
    except ValueError:
        return "damaged"
    whole = "samples" in tensors and len(tensors["samples"]) == count
    return "" if whole and metadata.get("checksum") == _checksum(tensors) else "damaged"


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
