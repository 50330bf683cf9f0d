"""What a noise schedule is: x_t = alpha(t)·x_0 + sigma(t)·eps, for t from 1 (noise) down to 0 (data), and its SDE.

Everything is computed in float64, for floats, numpy arrays and tensors (see :mod:`pyaccel.scalars`). ``lam`` is the
half log-SNR, lambda_t = log(alpha/sigma), in which the exponential integrators of DPM-Solver and UniPC are written
(Lu et al. 2022, arXiv 2206.00927, section 3.1); ``log_snr`` is twice that.

The forward SDE dx = f(t)·x dt + g(t) dw has these marginals when f = d log(alpha)/dt and
g² = d sigma²/dt − 2·f·sigma² (Kingma et al. 2021, arXiv 2107.00630; Lu et al. 2022, eq. 2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from ..scalars import Scalar, as_float64, exp, log, sqrt


@dataclass(frozen=True)
class Schedule:
    """A noise schedule. Make one with the functions of :mod:`pyaccel.schedules`, such as :func:`flow`.

    ``t_min`` is the smallest and ``t_max`` the largest time at which the log-SNR is finite and numerically useful;
    grids that are spaced in log-SNR use them in place of the infinite ends. ``parameters`` are those of the function
    that made it, as they can be written to JSON.
    """

    name: str
    parameters: dict
    t_min: float
    t_max: float
    _alpha: Callable[[Scalar], Scalar] = field(repr=False)
    _sigma: Callable[[Scalar], Scalar] = field(repr=False)
    _lam: Callable[[Scalar], Scalar] = field(repr=False)
    _drift: Callable[[Scalar], Scalar] = field(repr=False)
    _squared_diffusion: Callable[[Scalar], Scalar] = field(repr=False)
    _time_of_lam: Callable[[Scalar], Scalar] = field(repr=False)
    _time_of_sigma: Callable[[Scalar], Scalar] = field(repr=False)
    _model_time: Callable[[Scalar], Scalar] = field(repr=False)

    def alpha(self, t: Scalar) -> Scalar:
        """Factor of the data in x_t."""
        return self._alpha(as_float64(t))

    def sigma(self, t: Scalar) -> Scalar:
        """Standard deviation of the noise in x_t."""
        return self._sigma(as_float64(t))

    def lam(self, t: Scalar) -> Scalar:
        """Half log-SNR, log(alpha/sigma); infinite where sigma or alpha is 0."""
        return self._lam(as_float64(t))

    def log_snr(self, t: Scalar) -> Scalar:
        """log(alpha²/sigma²)."""
        return 2 * self.lam(t)

    def ratio(self, t: Scalar) -> Scalar:
        """sigma/alpha, the noise level that Karras et al. (2022) and most samplers' settings call sigma."""
        return exp(-self.lam(t))

    def time_of_lam(self, lam: Scalar) -> Scalar:
        """The time t with lam(t) = ``lam``."""
        return self._time_of_lam(as_float64(lam))

    def time_of_log_snr(self, log_snr: Scalar) -> Scalar:
        """The time t with log_snr(t) = ``log_snr``."""
        return self.time_of_lam(as_float64(log_snr) / 2)

    def time_of_ratio(self, ratio: Scalar) -> Scalar:
        """The time t with sigma(t)/alpha(t) = ``ratio``."""
        return self.time_of_lam(-log(as_float64(ratio)))

    def time_of_sigma(self, sigma: Scalar) -> Scalar:
        """The time t with sigma(t) = ``sigma``. Near sigma = 1, a variance-preserving schedule is better asked by
        :meth:`time_of_lam`: there sigma hardly changes with time."""
        return self._time_of_sigma(as_float64(sigma))

    def model_time(self, t: Scalar) -> Scalar:
        """What the network is told at time t."""
        return self._model_time(as_float64(t))

    def drift(self, t: Scalar) -> Scalar:
        """f(t) = d log(alpha)/dt of the forward SDE dx = f(t)·x dt + g(t) dw; −∞ where alpha is 0."""
        return self._drift(as_float64(t))

    def diffusion(self, t: Scalar) -> Scalar:
        """g(t) ≥ 0 of the forward SDE, with g² = d sigma²/dt − 2·f·sigma²; ∞ where f is −∞."""
        return sqrt(self._squared_diffusion(as_float64(t)))

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, t: Scalar) -> torch.Tensor:
        """alpha(t)·x0 + sigma(t)·noise for x0 and noise [B, ...] and t a number or [B]."""
        return _beside(x0, self.alpha(t)) * x0 + _beside(x0, self.sigma(t)) * noise

    def forward_sde(self, x: torch.Tensor, t: Scalar) -> tuple[torch.Tensor, float | torch.Tensor]:
        """(drift, diffusion) = (f(t)·x, g(t)) of dx = f(t)·x dt + g(t) dw (Song et al. 2021, eq. 5).

        x is [B, ...]; t is a number or [B]. The drift has the shape and dtype of x; the diffusion is a float for a
        float t and otherwise a tensor that broadcasts against x, such as [B, 1, 1, 1]. ValueError if the shapes of x
        and t do not fit.
        """
        return _beside(x, self.drift(t)) * x, _beside(x, self.diffusion(t))

    def reverse_sde(self, x: torch.Tensor, t: Scalar, score: torch.Tensor) -> tuple[torch.Tensor, float | torch.Tensor]:
        """(drift, diffusion) = (f·x − g²·score, g) of the SDE that runs from noise to data (Song et al. 2021, eq. 6).

        ``score`` is ∇log p_t(x), shaped as x; the rest is as for :meth:`forward_sde`. Time falls: a step of length
        h > 0 adds −h·drift and √h·diffusion·(unit Gaussian noise).
        """
        t = as_float64(t)
        drift = _beside(x, self._drift(t)) * x - _beside(x, self._squared_diffusion(t)) * score
        return drift, _beside(x, self.diffusion(t))

    def probability_flow(self, x: torch.Tensor, t: Scalar, score: torch.Tensor) -> torch.Tensor:
        """dx/dt = f·x − ½·g²·score of the ODE with the same marginals (Song et al. 2021, eq. 13)."""
        t = as_float64(t)
        return _beside(x, self._drift(t)) * x - _beside(x, 0.5 * self._squared_diffusion(t)) * score


def _beside(x: torch.Tensor, value: Scalar) -> float | torch.Tensor:
    """``value`` of a number or of [B], so that it multiplies x [B, ...] in the dtype of x."""
    if isinstance(value, float):
        return value
    value = torch.as_tensor(np.asarray(value) if isinstance(value, np.generic) else value)
    if value.dim() > 1 or (value.dim() == 1 and value.shape[0] not in (1, x.shape[0] if x.dim() else 1)):
        raise ValueError(f"t must be a number or one time per sample of x {list(x.shape)}, got {list(value.shape)}")
    value = value.to(device=x.device, dtype=x.dtype)
    return value.view((-1,) + (1,) * (x.dim() - 1)) if value.dim() else value
