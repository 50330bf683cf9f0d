"""What the tests of the Trainer share: a tiny classifier of tiny images, which processes of theirs can import, too."""

import os
import time
from dataclasses import dataclass

import torch
from torch import nn

from pyaccel.training.datasets import ImageData
from pyaccel.training.optimizers import Optimizer
from pyaccel.training.recipe import Recipe
from pyaccel.training.trainer import Trainer
from pyaccel.training.trainer_config import TrainerConfig


class Tiny(nn.Module):
    def __init__(self, norm: bool = True, dropout: float = 0.2):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Dropout(dropout),
            nn.Linear(8, 4),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x.to(self.net[1].weight.dtype))


@dataclass(frozen=True)
class TinyClassification(Recipe):
    """Noise is drawn for the images, so that a resume has to find it again."""

    model: Optimizer = Optimizer(0.02, warmup=2, decay="cosine")
    output = "model"
    averaged = ("model",)

    def losses(self, networks, batch):
        x = batch.x + 0.1 * batch.normal() + 0.01 * batch.uniform().view(-1, 1, 1, 1)
        yield "model", nn.functional.cross_entropy(networks.model(x), batch.conditioning["label"] % 4)


def tiny_images() -> ImageData:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(64) % 4
    images = torch.randint(0, 100, (64, 1, 4, 4), dtype=torch.uint8, generator=generator)
    images[torch.arange(64), 0, labels, labels] = 255  # what tells the classes apart
    return ImageData(images, labels)


def trainer(
    folder, *, recipe=None, data=None, model=None, ranks=None, interrupt=None, spoil=None, pause=0.0,
    checkpoint_seconds=120.0, validate=None, validate_every=0, **changes,
) -> Trainer:  # fmt: skip
    """A trainer; ``interrupt`` (step, signal) sends a signal in a step, ``spoil`` makes the loss of a step NaN."""
    settings = {"steps": 12, "batch_size": 16, "bf16": False, **changes}
    recipe = recipe or TinyClassification()
    t = Trainer(
        recipe, {"model": model or Tiny()}, data or tiny_images(), TrainerConfig(**settings), folder, ranks=ranks,
        validate=validate, validate_every=validate_every, checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    step = t.train_step

    def train_step():
        time.sleep(pause)
        if interrupt is not None and t.step == interrupt[0]:
            os.kill(os.getpid(), interrupt[1])
        if spoil is not None and t.step == spoil:
            with torch.no_grad():
                next(t.modules["model"].parameters()).fill_(float("nan"))
        return step()

    t.train_step = train_step
    return t


def state(t: Trainer) -> dict[str, torch.Tensor]:
    """Weights and averages."""
    averages = {f"ema.{k}": v for k, v in t.average().state_dict().items()}
    return {**t.modules["model"].state_dict(), **averages}
