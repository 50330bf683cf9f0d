"""Training a model of the zoo from its recipe, and the card that goes with the weights."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from .. import __version__, schedules, solvers, zoo
from ..denoiser import Denoiser
from ..models import ARCHITECTURES
from ..names import look_up
from ..training.base_models import BASE_MODELS, BaseModel
from ..training.checkpoints import save_tensors
from ..training.datasets import FASHION_MNIST_CLASSES, fashion_mnist
from ..training.record import machine_of
from ..training.trainer import Trainer
from .figures import image_grid
from .quality import Reference, class_accuracy, classify
from .sampling import fashion_quality, generate

FIGURE_SAMPLES = 2000


def train_model(
    name: str,
    folder: Path,
    data: str | os.PathLike | None = None,
    changes: dict[str, Any] | None = None,
    checkpoint_seconds: float = 120.0,
) -> int:
    """Trains ``name`` by its recipe in ``folder``; returns 0, or the number of the signal that stopped it.

    A run in ``folder`` goes on where it stood. At the end ``folder`` holds NAME.safetensors and the card NAME.json;
    for a generative model samples.png, for the classifier the reference statistics. ``changes`` replaces settings of
    the recipe's TrainerConfig; ``data`` is Fashion-MNIST's folder.
    """
    base = look_up("model to train", name, BASE_MODELS)
    config = dataclasses.replace(base.config, **(changes or {}))
    images = fashion_mnist("train", data)
    torch.manual_seed(config.seed)
    model = ARCHITECTURES[base.architecture](**base.options)
    start = model
    if base.prediction:
        schedule = schedules.from_name(base.schedule)
        start = Denoiser(model, schedule, base.prediction, unconditional={"label": model.classes})
    trainer = Trainer(
        base.recipe, base.recipe.networks(start), images, config, folder, checkpoint_seconds=checkpoint_seconds
    )
    if not trainer.fit():
        return trainer.stopped
    average = trainer.average()
    if base.prediction:
        figures = _generative_figures(trainer.denoiser(), folder)
    else:
        test = fashion_mnist("test", data)
        _, logits = classify(average, test.images)
        figures = {"test accuracy": round(class_accuracy(logits, test.labels), 4)}
        reference = Reference.from_images(average, images.images)
        save_tensors(folder / "fashion-reference.safetensors", reference.to_tensors(), {})
    zoo.save(average, _card(name, base, trainer, figures, changes or {}), folder)
    return 0


def _generative_figures(denoiser: Denoiser, folder: Path) -> dict[str, float]:
    samples = generate(denoiser, solvers.unipc(denoiser.schedule, 20), FIGURE_SAMPLES)
    image_grid(folder / "samples.png", samples.images[:100])
    quality = fashion_quality(samples)
    return {key: round(value, 3) for key, value in dataclasses.asdict(quality).items()}


def _card(name: str, base: BaseModel, trainer: Trainer, figures: dict, changes: dict) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": name,
        "architecture": base.architecture,
        "options": base.options,
        "parameters": sum(p.numel() for p in trainer.average().parameters()),
        "data": "Fashion-MNIST, 60000 training images, 1×28×28 in [−1, 1]",
        "classes": list(FASHION_MNIST_CLASSES),
    }
    how = "on the 10000 test images"
    if base.prediction:
        schedule = schedules.from_name(base.schedule)
        facts["schedule"] = {"name": schedule.name, "parameters": schedule.parameters}
        facts["prediction"] = base.prediction
        how = f"{FIGURE_SAMPLES} samples, seed 0, UniPC with 20 steps, float32; features of fashion-classifier"
    facts["training"] = {
        "command": " ".join([f"pyaccel train {name}", *(f"--{k.replace('_', '-')} {v}" for k, v in changes.items())]),
        "steps": trainer.step,
        "minutes": round(trainer.seconds / 60, 1),
        "machine": machine_of(torch.device("cpu")),
        "pyaccel": __version__,
        "config": trainer.all_settings(),
    }
    return facts | {"figures": figures, "figures measured": how}
