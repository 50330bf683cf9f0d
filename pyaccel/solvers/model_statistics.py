"""The empirical statistics of a model for DPM-Solver-v3: l, s and b over log-SNR, for each element of a sample."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from ..denoiser import Denoiser
from ..files import write_atomically
from ..predictions import convert
from ..progress import progress_bar

DIFFERENCE = 1e-2
"""Of the central differences: of x in units of the noise, and of lam."""


RIDGE = 1e-5
"""Share of f's largest variance over log-SNR, added to that at each: where f hardly varies, as in nearly pure noise, a
slope over it is a quotient of two errors."""


@dataclass(frozen=True)
class ModelStatistics:
    """Half log-SNRs ``lam`` [M], rising, and l, s, b [M, ...] at them, float64; see :mod:`pyaccel.solvers.dpm_v3`.

    ``schedule`` is the name of the schedule that they were measured with, where it is known.
    """

    lam: torch.Tensor
    l: torch.Tensor  # noqa: E741 - the paper's letter
    s: torch.Tensor
    b: torch.Tensor
    schedule: str = ""

    def __post_init__(self):
        count = len(self.lam)
        if self.lam.dim() != 1 or count < 2 or not bool((self.lam.diff() > 0).all()):
            raise ValueError(f"statistics need at least two rising half log-SNRs, got {self.lam}")
        for name in ("l", "s", "b"):
            value = getattr(self, name)
            if len(value) != count or value.shape != self.l.shape:
                raise ValueError(f"statistics: {name} must be [{count}, ...] as l is, got {tuple(value.shape)}")

    def save(self, path: str | os.PathLike) -> None:
        """Writes a safetensors file, atomically."""
        tensors = {name: getattr(self, name).clone().contiguous() for name in ("lam", "l", "s", "b")}
        about = {"schedule": self.schedule}
        write_atomically(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, about))

    @staticmethod
    def load(path: str | os.PathLike) -> ModelStatistics:
        """The statistics of a file; ValueError when it holds something else."""
        with safetensors.safe_open(Path(path), "pt") as file:
            tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        if set(tensors) != {"lam", "l", "s", "b"}:
            raise ValueError(f"{path} holds {sorted(tensors)}, not the statistics of a model (lam, l, s, b)")
        return ModelStatistics(**tensors, schedule=about.get("schedule", ""))


@torch.no_grad()
def model_statistics(
    denoiser: Denoiser,
    data: torch.Tensor,
    *,
    knots: int = 120,
    batch: int = 64,
    seed: int = 0,
    progress: bool = False,
    **conditioning,
) -> ModelStatistics:
    """Measures l, s and b of ``denoiser`` on ``data`` [N, ...] noised to ``knots`` levels between t_max and t_min.

    l = E[sigma·∂eps/∂x], the diagonal, by Hutchinson's estimate with random signs (Algorithm 1 of the paper); then s
    and b by least squares of f's derivative along the ODE on f, over the data (eq. 11). Derivatives are central
    differences. Seven model calls for each knot and sample; some hundred samples are enough. ``conditioning`` holds
    tensors [N, ...].
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"model_statistics: denoiser must be a pyaccel.Denoiser, got {type(denoiser).__name__}")
    if len(data) < 2 or knots < 2:
        raise ValueError(f"model_statistics: need at least 2 samples and 2 knots, got {len(data)} and {knots}")
    schedule = denoiser.schedule
    ends = (float(schedule.lam(schedule.t_max)), float(schedule.lam(max(schedule.t_min, 1e-4))))
    lam = torch.linspace(*ends, knots, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(data.shape, generator=generator).to(data)
    signs = (torch.randint(0, 2, data.shape, generator=generator) * 2 - 1).to(data)
    chunks = range(0, len(data), batch)

    def eps(x: torch.Tensor, at: float, rows: slice) -> torch.Tensor:
        t = float(schedule.time_of_lam(at))
        p, q = convert(denoiser.prediction, "epsilon", float(schedule.alpha(t)), float(schedule.sigma(t)))
        time = torch.full((len(x),), float(schedule.model_time(t)), dtype=x.dtype, device=x.device)
        return (p * x + q * denoiser(x, time, **{k: v[rows] for k, v in conditioning.items()})).double()

    def coefficients(at: float) -> tuple[float, float]:
        t = float(schedule.time_of_lam(at))
        return float(schedule.alpha(t)), float(schedule.sigma(t))

    with progress_bar("model statistics", 2 * knots, progress) as bar:
        linear = []
        for at in lam.tolist():
            alpha, sigma = coefficients(at)
            total = 0.0
            for first in chunks:
                rows = slice(first, first + batch)
                x, v = alpha * data[rows] + sigma * noise[rows], signs[rows]
                step = DIFFERENCE * sigma
                slope = (eps(x + step * v, at, rows) - eps(x - step * v, at, rows)) / (2 * step)
                total = total + (sigma * v * slope).sum(0)
            linear.append(total / len(data))
            bar.advance(1)
        l = torch.stack(linear)  # noqa: E741

        def remainder(x: torch.Tensor, at: float, rows: slice) -> torch.Tensor:
            alpha, sigma = coefficients(at)
            # Just beyond the ends l goes straight on: x/alpha is large there, and a kink would be taken for a slope.
            place = (at - ends[0]) / (ends[1] - ends[0]) * (knots - 1)
            i = min(max(int(place), 0), knots - 2)
            return (sigma * eps(x, at, rows) - torch.lerp(l[i], l[i + 1], place - i) * x) / alpha

        moments = []
        for at in lam.tolist():
            alpha, sigma = coefficients(at)
            sums = [0.0] * 4
            for first in chunks:
                rows = slice(first, first + batch)
                x = alpha * data[rows] + sigma * noise[rows]
                f, y, derivative = remainder(x, at, rows), x / alpha, -(sigma / alpha) * eps(x, at, rows)
                # Along the ODE, to either side.
                after, before = at + DIFFERENCE, at - DIFFERENCE
                ahead = coefficients(after)[0] * (y + DIFFERENCE * derivative)
                behind = coefficients(before)[0] * (y - DIFFERENCE * derivative)
                change = remainder(ahead.to(x), after, rows) - remainder(behind.to(x), before, rows)
                change = change / (2 * DIFFERENCE)
                sums = [a + b.sum(0) for a, b in zip(sums, (f, change, f * f, f * change), strict=True)]
            moments.append(torch.stack([total / len(data) for total in sums]))
            bar.advance(1)
    mean_f, mean_c, mean_ff, mean_fc = torch.stack(moments, dim=1)
    variance = mean_ff - mean_f**2
    slope = (mean_fc - mean_f * mean_c) / (variance + RIDGE * variance.amax(0)).clamp(min=1e-12)
    return ModelStatistics(lam, l, slope, mean_c - slope * mean_f, schedule.name)
