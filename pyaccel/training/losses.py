"""Losses of base models, as functions of tensors, and the recipes that train by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import predictions
from ..denoiser import Denoiser
from .batch import Batch
from .optimizers import Optimizer
from .recipe import Losses, Networks, Recipe


def denoising_loss(denoiser: Denoiser, x0: Tensor, noise: Tensor, t: Tensor, conditioning: dict) -> Tensor:
    """mean ‖network(x_t, t) − target‖² with x_t = alpha·x0 + sigma·noise, [b, ...], and t [b] (Ho et al. 2020, eq. 14).

    The target is what the network predicts; for a flow this is flow matching (Lipman et al. 2023).
    """
    schedule = denoiser.schedule
    alpha, sigma = (f(t).to(x0.dtype).view(-1, *[1] * (x0.dim() - 1)) for f in (schedule.alpha, schedule.sigma))
    target = predictions.target(denoiser.prediction, x0, noise, alpha, sigma)
    output = denoiser(alpha * x0 + sigma * noise, schedule.model_time(t).to(x0.dtype), **conditioning)
    return F.mse_loss(output.to(target.dtype), target)


@dataclass(frozen=True)
class Denoising(Recipe):
    """A diffusion or flow-matching model from its data.

    Times are uniform, or logit-normal with mean 0 and standard deviation 1 (Esser et al. 2024, section 3.1). The label
    is left out of a share ``label_dropout`` of samples, for classifier-free guidance (Ho & Salimans 2022).
    """

    model: Optimizer = Optimizer(1e-3, weight_decay=0.01, warmup=200, decay="cosine")
    times: Literal["uniform", "logit-normal"] = "uniform"
    label_dropout: float = 0.1

    output = "model"
    averaged = ("model",)

    def networks(self, start: Denoiser) -> dict:
        """The network itself; there is no teacher."""
        return {"model": start}

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """Algorithm 1 of Ho et al. 2020."""
        model = networks.model
        t = batch.uniform().clamp_min(1e-4) if self.times == "uniform" else torch.sigmoid(batch.gaussians())
        conditioning = batch.dropped(model.unconditional, self.label_dropout)
        yield "model", denoising_loss(model, batch.x, batch.normal(), t, conditioning)


def classification_loss(network, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with label smoothing 0.1."""
    return F.cross_entropy(network(images).float(), labels, label_smoothing=0.1)


@dataclass(frozen=True)
class Classification(Recipe):
    """A classifier of images [b, C, H, W] by ``label``, each batch moved by up to two pixels."""

    model: Optimizer = Optimizer(3e-3, weight_decay=0.01, warmup=200, decay="cosine")

    output = "model"
    averaged = ("model",)

    def networks(self, start) -> dict:
        """The network itself."""
        return {"model": start}

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """One step."""
        dy, dx = (int(batch.number() * 5) - 2 for _ in range(2))
        moved = torch.roll(F.pad(batch.x, (2, 2, 2, 2), value=-1.0), (dy, dx), (2, 3))[..., 2:-2, 2:-2]
        yield "model", classification_loss(networks.model, moved, batch.conditioning["label"])
