"""Losses of base models, as functions of tensors; a step calls ``loss(network, images, labels, generator)``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .. import predictions
from ..schedules import Schedule


def logit_normal_times(count: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    """t = sigmoid(mean + std·n), [count] in (0, 1) (Esser et al. 2024, section 3.1)."""
    return torch.sigmoid(mean + std * torch.randn(count, generator=generator))


def uniform_times(count: int, generator: torch.Generator) -> torch.Tensor:
    """One t in each of ``count`` equal strata of (0, 1), shuffled: less variance than independent draws."""
    strata = torch.randperm(count, generator=generator)
    return ((strata + torch.rand(count, generator=generator)) / count).clamp_(1e-4, 1)


def denoising(
    schedule: Schedule,
    prediction: str,
    times: Callable[[int, torch.Generator], torch.Tensor],
    label_dropout: float = 0.1,
) -> Callable[..., torch.Tensor]:
    """E‖network(x_t, t, label) − target‖² with x_t = alpha·x0 + sigma·eps and the target of ``prediction``.

    The label is replaced by "none" with probability ``label_dropout``, for classifier-free guidance (Ho & Salimans
    2022).
    """
    predictions.check(prediction)

    def loss(network, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count = len(images)
        t = times(count, generator)
        noise = torch.randn(images.shape, generator=generator)
        dropped = torch.rand(count, generator=generator) < label_dropout
        labels = torch.where(dropped, network.classes, labels)
        alpha, sigma = (f(t).float().view(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma))
        target = predictions.target(prediction, images, noise, alpha, sigma)
        output = network(alpha * images + sigma * noise, schedule.model_time(t).float(), labels)
        return F.mse_loss(output.float(), target)

    return loss


def classification(network, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cross-entropy with label smoothing 0.1, on images moved by up to two pixels."""
    dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
    moved = torch.roll(F.pad(images, (2, 2, 2, 2), value=-1.0), (dy, dx), (2, 3))[..., 2:-2, 2:-2]
    return F.cross_entropy(network(moved).float(), labels, label_smoothing=0.1)
