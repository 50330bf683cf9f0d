"""Teacher data of any Denoiser: from it and a spec to a folder of checked shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..denoiser import Denoiser
from ..solvers import Plan
from ..solvers.family import make_plan
from ..training.teacher import Conditioning, TeacherSpec, generate_teacher
from .sampling import labels_of

TEACHER_SEED = 20_000  # apart from the seeds that figures are measured with


def facts_of(denoiser: Denoiser) -> dict[str, Any]:
    """What teacher data have to share with a denoiser, as fields of :class:`TeacherSpec`.

    ValueError for guidance that is a number for each sample.
    """
    if isinstance(denoiser.guidance, torch.Tensor):
        raise ValueError(
            f"teacher data are made with one guidance for all samples, got a tensor {list(denoiser.guidance.shape)}"
        )
    return {
        "schedule": [denoiser.schedule.name, denoiser.schedule.parameters],
        "guidance": float(denoiser.guidance),
        "dtype": dtype_name(denoiser),
    }


def dtype_name(denoiser: Denoiser) -> str:
    """The dtype of the network's input, by its name in torch."""
    return str(denoiser.dtype or torch.float32).removeprefix("torch.")


def teacher_spec(
    model: str, denoiser: Denoiser, count: int, *, solver: str = "unipc", steps: int = 20, seed: int = TEACHER_SEED,
    options: dict | None = None, shard: int = 250,
) -> TeacherSpec:  # fmt: skip
    """What teacher data are to be; ``model`` is a name of your own for the denoiser, or one of the zoo's."""
    return TeacherSpec(
        model, solver, steps, count, seed, shard=shard, options=dict(options or {}), **facts_of(denoiser)
    )


def teacher_plan(denoiser: Denoiser, spec: TeacherSpec) -> Plan:
    """The teacher's plan; ValueError for one that is stochastic."""
    plan = make_plan(spec.solver, denoiser.schedule, spec.steps, prediction=denoiser.prediction, **spec.options)
    if plan.stochastic:
        raise ValueError(f"{spec.solver} adds noise on its way; a teacher must be deterministic, such as unipc")
    return plan


def class_labels(denoiser: Denoiser) -> Callable[[range], Conditioning]:
    """The conditioning of samples of a class-conditional model of pyaccel's: each class in turn."""
    classes = list(range(denoiser.model.classes))
    return lambda indices: {"label": labels_of(indices, classes)}


def sample_shape(denoiser: Denoiser) -> tuple[int, int, int]:
    """The shape of one sample of a model of pyaccel's."""
    return denoiser.model.channels, denoiser.model.size, denoiser.model.size


def make_teacher(
    folder: Path,
    denoiser: Denoiser,
    spec: TeacherSpec,
    *,
    shape: tuple[int, ...] | None = None,
    conditioning: Callable[[range], Conditioning] | None = None,
    device: torch.device | str | None = None,
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> list[int]:
    """Makes the shards of teacher data that are missing or damaged; returns their numbers.

    Args:
        shape: of one sample, without the batch; by default that of a model of pyaccel's.
        conditioning: gives what the network gets with the samples of these indices, tensors [n, ...], from the indices
            alone; by default each class of a model of pyaccel's in turn, and nothing where ``shape`` is given.
        device: of the network; by default that of the model's parameters.
    """
    plan = teacher_plan(denoiser, spec)
    if conditioning is None:
        conditioning = class_labels(denoiser) if shape is None else lambda _: {}
    if device is None:
        device = next(denoiser.model.parameters()).device

    def sample(noise: torch.Tensor, indices: range) -> tuple[torch.Tensor, Conditioning]:
        given = conditioning(indices)
        there = {name: value.to(device) for name, value in given.items()}
        return plan.sample(denoiser, noise.to(device), **there), given

    shape = sample_shape(denoiser) if shape is None else shape
    return generate_teacher(folder, spec, sample, shape, rank=rank, ranks=ranks, progress=progress)
