"""Running a scheduler of diffusers beside a Plan: in float64, with the same constants, noise and model outputs."""

from __future__ import annotations

import contextlib
import sys

import pytest
import torch

from pyaccel import schedules

from .agreement import agrees

diffusers = pytest.importorskip("diffusers", reason="the test extra has it")

S = schedules.vp_discrete(schedules.scaled_linear_betas())
N = 1000


def network(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """Any smooth function of a sample and of the training step that a model is told."""
    n = torch.as_tensor(n, dtype=torch.float64).reshape(-1)[0]
    return 0.7 * x + 0.4 * torch.sin(2 * x + n / 150)


def noises(shape, count: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return list(torch.randn(count, *shape, generator=generator, dtype=torch.float64))


@contextlib.contextmanager
def in_float64(monkeypatch, scheduler_class, drawn: list[torch.Tensor] | None = None):
    """Within, what this library rounds to float32 (constants, samples) stays float64; its noise is ``drawn``."""
    module = sys.modules[scheduler_class.__module__]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        if drawn is not None and hasattr(module, "randn_tensor"):
            left = iter(drawn)
            patch.setattr(module, "randn_tensor", lambda *_, **__: next(left))
        yield


def sampler(drawn: list[torch.Tensor]):
    """The same noise for a Plan."""
    left = iter(drawn)
    return lambda sigma_from, sigma_to: next(left)


def trajectory(scheduler, start: torch.Tensor, model=network, **options) -> torch.Tensor:
    """The loop of a pipeline."""
    x = start
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, **options).prev_sample
    return x


def trained(name: str, **options):
    """A scheduler by its class, on the betas of :data:`S`."""
    return getattr(diffusers, name)(trained_betas=S.parameters["betas"], num_train_timesteps=N, **options)


def exact(scheduler, times: list[float]) -> None:
    """Gives the scheduler the sigma/alpha of S at ``times`` as they are in float64."""
    scheduler.alphas_cumprod = torch.tensor([S.alpha((n + 1) / N) ** 2 for n in range(N)], dtype=torch.float64)
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.tensor([S.ratio(t) for t in times], dtype=torch.float64)


def matched(scheduler, final: str) -> list[float]:
    """Our times for the scheduler's timesteps: (n + 1)/N, and 0 or 1/N at the end."""
    return [(float(n) + 1) / N for n in scheduler.timesteps] + [0.0 if final == "zero" else 1 / N]


def compare(
    monkeypatch, scheduler_class: str, make_plan, steps: int, final: str = "zero", tolerance: float = 1e-9,
    stochastic: bool = False, step_options: dict | None = None, **options,
) -> None:  # fmt: skip
    """Trajectories of a scheduler with samples scaled as in training and of ``make_plan(S, times=...)``."""
    x = noises((2, 3, 4), 1)[0]
    drawn = noises((2, 3, 4)) if stochastic else None
    with in_float64(monkeypatch, getattr(diffusers, scheduler_class), drawn):
        scheduler = trained(scheduler_class, **options)
        scheduler.set_timesteps(steps)
        times = matched(scheduler, final)
        exact(scheduler, times)
        expected = trajectory(scheduler, S.sigma(times[0]) * x, **(step_options or {}))
    plan = make_plan(S, times=times)
    more = {"noise_sampler": sampler(drawn)} if stochastic else {}
    agrees(plan.sample(network, x, **more), expected, tolerance)
