"""Samples by the thousand, from (seed, index) alone, with what they cost; and the zoo's own measure of quality."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import torch

from .. import zoo
from ..caching import Cache
from ..denoiser import Denoiser
from ..models import Classifier
from ..seeding import sample_noise
from ..solvers import Plan
from ..training.checkpoints import load_tensors
from .quality import Quality, Reference, evaluate

BATCH = 250
_ON_THE_WAY = 0x57E9  # keeps the noise that a solver adds apart from the noise that a sample starts from


@dataclass(frozen=True)
class Samples:
    """Images [N, C, H, W] in [−1, 1], labels [N], seconds of wall time, and model calls per image, all and full."""

    images: torch.Tensor
    labels: torch.Tensor
    seconds: float
    model_calls: int
    full_calls: int


def labels_of(indices: range, classes: list[int]) -> torch.Tensor:
    """The label of sample i is the (i mod len(classes))-th of ``classes``."""
    return torch.tensor([classes[i % len(classes)] for i in indices], dtype=torch.long)


def noise_seeds(seed: int, indices: range) -> list[int]:
    """For each sample the seed of the noise that a stochastic plan adds on its way, from ``seed`` and its index."""
    words = (np.random.SeedSequence((_ON_THE_WAY, seed, i)).generate_state(1, np.uint64)[0] for i in indices)
    return [int(word) >> 1 for word in words]


def generate(
    denoiser: Denoiser,
    plan: Plan,
    count: int,
    *,
    seed: int = 0,
    classes: list[int] | None = None,
    cache: Cache | None = None,
    batch: int = BATCH,
    bar=None,
) -> Samples:
    """``count`` samples of a model of the zoo by ``plan``, in batches of ``batch``, optionally with a feature cache.

    Label and noise of sample i, also the noise that a stochastic plan adds on its way, depend on seed and i alone.
    ``classes`` defaults to all of the model's. ``bar`` is advanced by the images that are done. Seconds are those of
    the sampling alone.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    model = denoiser.model
    classes = list(range(model.classes)) if classes is None else classes
    wrong = [c for c in classes if not 0 <= c < model.classes]
    if wrong or not classes:
        raise ValueError(f"classes must be numbers from 0 to {model.classes - 1}, got {wrong or classes}")
    shape, device = (model.channels, model.size, model.size), next(model.parameters()).device
    images, labels, seconds = [], [], 0.0
    with cache or nullcontext():
        for first in range(0, count, batch):
            indices = range(first, min(count, first + batch))
            noise, label = sample_noise(seed, indices, shape).to(device), labels_of(indices, classes).to(device)
            seeds = noise_seeds(seed, indices) if plan.stochastic else None
            started = time.perf_counter()
            images.append(plan.sample(denoiser, noise, seed=seeds, label=label))
            images[-1] = images[-1].cpu()  # waits for a GPU
            seconds += time.perf_counter() - started
            labels.append(label.cpu())
            if bar is not None:
                bar.advance(len(indices))
    full = plan.calls
    if cache is not None:
        summary = cache.summary()
        if not summary.calls:
            raise ValueError(f"the cache {cache.method} saw no call: it is not on this denoiser's model")
        full = round(summary.full_calls * plan.calls / summary.calls)
    return Samples(torch.cat(images).clamp_(-1, 1), torch.cat(labels), seconds, plan.calls, full)


def columns_of(samples: Samples, quality: Quality) -> dict[str, float]:
    """What a report's row says of samples: their cost and their quality."""
    cost = {name: getattr(samples, name) for name in ("model_calls", "full_calls", "seconds")}
    return cost | asdict(quality)


@cache
def fashion_reference() -> tuple[Classifier, Reference]:
    """The zoo's classifier and the statistics of Fashion-MNIST's training images in its features."""
    tensors, _ = load_tensors(zoo.FOLDER / "fashion-reference.safetensors")
    return zoo.load_model("fashion-classifier"), Reference.from_tensors(tensors)


def fashion_quality(samples: Samples) -> Quality:
    """Quality of samples of a Fashion-MNIST model."""
    classifier, reference = fashion_reference()
    return evaluate(samples.images, samples.labels, classifier, reference)
