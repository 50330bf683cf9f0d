"""R3GAN's losses (Huang et al. 2024, arXiv 2501.05441), a small discriminator, and what a user's one must be.

A discriminator is any module ``D(x, **conditioning) -> [B]``, larger for samples that look real.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relativistic_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(−(D(fake) − D(real))) over pairs: the fake one should look more real than its partner (eq. 1)."""
    return F.softplus(real - fake).mean()


def relativistic_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(−(D(real) − D(fake))) over pairs."""
    return F.softplus(fake - real).mean()


def gradient_penalty(scores: Tensor, samples: Tensor) -> Tensor:
    """E ‖∇_x D(x)‖² at samples that require gradients: R1 at real ones, R2 at fake ones (eq. 3)."""
    (gradient,) = torch.autograd.grad(scores.sum(), samples, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()


def discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor, gamma: float, conditioning) -> Tensor:
    """The relativistic loss + gamma/2·(R1 + R2); ``real`` and ``fake`` [B, ...] without graphs."""
    real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
    of_real, of_fake = discriminator(real, **conditioning), discriminator(fake, **conditioning)
    penalties = gradient_penalty(of_real, real) + gradient_penalty(of_fake, fake)
    return relativistic_discriminator_loss(of_real, of_fake) + 0.5 * gamma * penalties


class Discriminator(nn.Module):
    """A convolutional discriminator: ``D(x, label) -> [B]`` for images [B, channels, H, W] of 8 pixels or more.

    No normalisation, leaky ReLUs and smooth downsampling, as the penalties want it; the label enters as a projection
    (Miyato & Koyama 2018, arXiv 1802.05637). It takes other conditioning without looking at it.
    """

    def __init__(self, channels: int = 1, width: int = 32, classes: int = 10):
        super().__init__()
        self.channels = channels
        widths = (width, 2 * width, 4 * width)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)])
            for a, b in zip((width, *widths), widths, strict=False)
        )
        self.head = nn.Linear(widths[-1], 1)
        self.label = nn.Embedding(classes + 1, widths[-1])
        nn.init.zeros_(self.label.weight)

    def forward(self, x: Tensor, label: Tensor | None = None, **_) -> Tensor:
        h = F.leaky_relu(self.first(x), 0.2)
        for first, second in self.stages:
            h = F.leaky_relu(first(h), 0.2)
            h = F.avg_pool2d(F.leaky_relu(second(h), 0.2), 2, ceil_mode=True)
        h = h.mean((2, 3))
        score = self.head(h).squeeze(-1)
        return score if label is None else score + (h * self.label(label)).sum(-1)


def check_discriminator(discriminator: nn.Module, samples: Tensor, conditioning: dict) -> None:
    """ValueError or TypeError unless the discriminator takes these samples and gives one number for each."""
    if not isinstance(discriminator, nn.Module):
        raise TypeError(f"a discriminator must be a torch.nn.Module, got {type(discriminator).__name__}")
    try:
        with torch.no_grad():
            scores = discriminator(samples, **conditioning)
    except Exception as error:
        raise ValueError(
            f"the discriminator does not take samples {list(samples.shape)} with {', '.join(conditioning) or 'no'} "
            f"conditioning: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(scores, Tensor) or scores.shape != samples.shape[:1]:
        got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"the discriminator must give one number for each sample, [{len(samples)}], got {got}")
