"""A one-dimensional Gaussian mixture as data: E[x0 | x_t] is known in closed form, so solvers have an exact model."""

from __future__ import annotations

import torch

from pyaccel.schedules import Schedule

MEANS = torch.tensor([-1.0, 0.6], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.2], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)


def exact_denoiser(schedule: Schedule, prediction: str = "sample"):
    """``(x, t) -> prediction`` for schedules whose model time is t itself."""

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        time = t.to(torch.float64)
        # One time for all, or one for each sample; the mixture's components are a further dimension.
        time = time.reshape(-1, *[1] * (x.dim() - 1)) if time.numel() == len(x) else time.reshape(-1)[0]
        alpha, sigma = schedule.alpha(time).to(x)[..., None], schedule.sigma(time).to(x)[..., None]
        variance = (alpha * STDS.to(x)) ** 2 + sigma**2
        offset = x[..., None] - alpha * MEANS.to(x)
        logits = torch.log(WEIGHTS.to(x)) - 0.5 * torch.log(variance) - 0.5 * offset**2 / variance
        posterior_means = MEANS.to(x) + alpha * STDS.to(x) ** 2 / variance * offset
        alpha, sigma = alpha[..., 0], sigma[..., 0]
        x0 = (torch.softmax(logits, -1) * posterior_means).sum(-1)
        noise = (x - alpha * x0) / sigma
        return {
            "sample": x0,
            "epsilon": noise,
            "v": alpha * noise - sigma * x0,
            "flow": noise - x0,
        }[prediction]

    return denoise


def times(steps: int, start: float = 1.0, end: float = 0.02) -> list[float]:
    """Equal steps in t between finite log-SNRs."""
    return torch.linspace(start, end, steps + 1, dtype=torch.float64).tolist()


def at(t: float) -> torch.Tensor:
    """The time t as a model is told it, in float64."""
    return torch.tensor([t], dtype=torch.float64)
