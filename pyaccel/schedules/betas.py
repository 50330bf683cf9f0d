"""The betas of discrete schedules: lists of numbers in (0, 1] for :func:`pyaccel.schedules.vp_discrete`.

beta_n is the variance that training step n adds: alpha_n² = Π_{i≤n} (1 − beta_i), which diffusers calls
``alphas_cumprod``. All are float64 arrays [n].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

Betas = Sequence[float] | np.ndarray | torch.Tensor


def check_betas(name: str, betas: Betas) -> np.ndarray:
    """The betas as a float64 array [N]; ValueError unless there are two or more, in (0, 1), the last one in (0, 1]."""
    b = np.array(betas.detach().cpu().double().numpy() if isinstance(betas, torch.Tensor) else betas, dtype=np.float64)
    if b.ndim != 1 or len(b) < 2:
        raise ValueError(f"{name}: betas must be a list of at least two numbers in (0, 1), got shape {b.shape}")
    wrong = np.flatnonzero(~((b > 0) & (b < 1) | (np.arange(len(b)) == len(b) - 1) & (b == 1)))
    if len(wrong):
        raise ValueError(
            f"{name}: betas must lie in (0, 1), and only the last may be 1; "
            f"got {b[wrong[0]]} at position {wrong[0]} of {len(b)}"
        )
    return b


def linear_betas(n: int = 1000, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """n betas evenly from ``start`` to ``end`` (DDPM, Ho et al. 2020, section 4)."""
    return check_betas("linear_betas", np.linspace(start, end, _count("linear_betas", n)))


def scaled_linear_betas(n: int = 1000, start: float = 0.00085, end: float = 0.012) -> np.ndarray:
    """n betas whose square roots run evenly from √start to √end (latent diffusion; the defaults are those of Stable
    Diffusion)."""
    roots = np.linspace(np.sqrt(start), np.sqrt(end), _count("scaled_linear_betas", n))
    return check_betas("scaled_linear_betas", roots**2)


def cosine_betas(n: int = 1000, s: float = 0.008, most: float = 0.999) -> np.ndarray:
    """beta_i = min(1 − a(i + 1)/a(i), most), a(i) = cos²(π/2·(i/n + s)/(1 + s)) (Nichol & Dhariwal 2021, eq. 17)."""
    if not 0 <= s < 1 or not 0 < most < 1:
        raise ValueError(f"cosine_betas: need s in [0, 1) and most in (0, 1), got {s!r} and {most!r}")
    a = np.cos(np.pi / 2 * (np.arange(_count("cosine_betas", n) + 1) / n + s) / (1 + s)) ** 2
    return check_betas("cosine_betas", np.minimum(1 - a[1:] / a[:-1], most))


def rescale_zero_terminal_snr(betas: Betas) -> np.ndarray:
    """The betas whose last alpha is 0 (Lin et al. 2023, arXiv 2305.08891, Algorithm 1); the last beta is then 1.

    alpha_n is shifted down by its last value and scaled so that the first one stays:
    alpha'_n = (alpha_n − alpha_N)·alpha_1/(alpha_1 − alpha_N).
    """
    alphas = np.sqrt(np.cumprod(1 - check_betas("rescale_zero_terminal_snr", betas)))
    squares = ((alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))) ** 2
    return check_betas("rescale_zero_terminal_snr", 1 - squares / np.concatenate([[1.0], squares[:-1]]))


def _count(name: str, n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 2:
        raise ValueError(f"{name}: n must be a whole number of at least 2, got {n!r}")
    return int(n)
