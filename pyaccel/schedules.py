"""Noise schedules: x_t = alpha(t)·x_0 + sigma(t)·eps, for t from 1 (noise) down to 0 (data).

Everything is computed in float64, for floats, numpy arrays and tensors (see :mod:`pyaccel.scalars`). ``lam`` is the
half log-SNR, lambda_t = log(alpha/sigma), in which the exponential integrators of DPM-Solver and UniPC are written
(Lu et al. 2022, arXiv 2206.00927, section 3.1); ``log_snr`` is twice that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .names import look_up
from .scalars import Scalar, arccos, as_float64, exp, expm1, interpolate, log, maximum, sin, softplus, sqrt


@dataclass(frozen=True)
class Schedule:
    """A noise schedule. Make one with :func:`flow`, :func:`vp_linear`, :func:`vp_cosine`, :func:`vp_discrete`,
    :func:`edm` or :func:`ve`.

    ``t_min`` is the smallest and ``t_max`` the largest time at which the log-SNR is finite and numerically useful;
    grids that are spaced in log-SNR use them in place of the infinite ends.
    """

    name: str
    parameters: dict
    t_min: float
    t_max: float
    _alpha: Callable[[Scalar], Scalar] = field(repr=False)
    _sigma: Callable[[Scalar], Scalar] = field(repr=False)
    _lam: Callable[[Scalar], Scalar] = field(repr=False)
    _time_of_lam: Callable[[Scalar], Scalar] = field(repr=False)
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

    def time_of_lam(self, lam: Scalar) -> Scalar:
        """The time t with lam(t) = ``lam``."""
        return self._time_of_lam(as_float64(lam))

    def time_of_log_snr(self, log_snr: Scalar) -> Scalar:
        """The time t with log_snr(t) = ``log_snr``."""
        return self.time_of_lam(as_float64(log_snr) / 2)

    def model_time(self, t: Scalar) -> Scalar:
        """What the network is told at time t."""
        return self._model_time(as_float64(t))

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """alpha(t)·x0 + sigma(t)·noise for x0 and noise [B, ...] and t [B]."""
        shape = (-1,) + (1,) * (x0.dim() - 1)
        return self.alpha(t).to(x0.dtype).view(shape) * x0 + self.sigma(t).to(x0.dtype).view(shape) * noise


def _identity(t: Scalar) -> Scalar:
    return t


def flow(shift: float = 1.0) -> Schedule:
    """Flow matching (rectified flow): alpha = 1 − s, sigma = s with s = shift·t / (1 + (shift − 1)·t).

    ``shift`` is that of Stable Diffusion 3 (Esser et al. 2024, eq. 23); with 1, s = t. The network is told s.
    """
    if not shift > 0 or not math.isfinite(shift):
        raise ValueError(f"flow: shift must be a positive number, got {shift!r}")

    def sigma(t):
        return shift * t / (1 + (shift - 1) * t)

    def alpha(t):
        return (1 - t) / (1 + (shift - 1) * t)

    def unshift(s):
        return s / (shift - (shift - 1) * s)

    return Schedule(
        name="flow",
        parameters={"shift": float(shift)},
        t_min=unshift(0.002),
        t_max=unshift(0.998),
        _alpha=alpha,
        _sigma=sigma,
        _lam=lambda t: log(1 - t) - log(shift * t),
        _time_of_lam=lambda lam: unshift(1 / (1 + exp(lam))),
        _model_time=sigma,
    )


def _vp(name, parameters, t_min, t_max, log_alpha, time_of_log_alpha, model_time=_identity) -> Schedule:
    """A variance-preserving schedule (alpha² + sigma² = 1) from log alpha and its inverse."""

    def sigma(t):
        return sqrt(-expm1(2 * log_alpha(t)))

    return Schedule(
        name=name,
        parameters=parameters,
        t_min=t_min,
        t_max=t_max,
        _alpha=lambda t: exp(log_alpha(t)),
        _sigma=sigma,
        _lam=lambda t: log_alpha(t) - log(sigma(t)),
        # alpha² = 1 / (1 + e^(-2 lam))
        _time_of_lam=lambda lam: time_of_log_alpha(-0.5 * softplus(-2 * lam)),
        _model_time=model_time,
    )


def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The VP SDE with linear beta(t) = beta_min + t·(beta_max − beta_min) (Song et al. 2021, eq. 33)."""
    if not 0 < beta_min < beta_max:
        raise ValueError(f"vp_linear: need 0 < beta_min < beta_max, got {beta_min!r} and {beta_max!r}")
    slope = beta_max - beta_min

    def log_alpha(t):
        return -0.25 * t * t * slope - 0.5 * t * beta_min

    def time_of_log_alpha(a):
        # The root of the quadratic that does not cancel for small t.
        return -4 * a / (beta_min + sqrt(beta_min * beta_min - 4 * slope * a))

    parameters = {"beta_min": float(beta_min), "beta_max": float(beta_max)}
    return _vp("vp_linear", parameters, 1e-3, 1.0, log_alpha, time_of_log_alpha)


def vp_cosine(s: float = 0.008) -> Schedule:
    """The cosine schedule alpha(t) = cos(π/2·(t+s)/(1+s)) / cos(π/2·s/(1+s)) (Nichol & Dhariwal 2021, eq. 17)."""
    if not 0 <= s < 1:
        raise ValueError(f"vp_cosine: s must lie in [0, 1), got {s!r}")
    half_pi = math.pi / 2
    log_alpha_0 = math.log(math.cos(half_pi * s / (1 + s)))

    def log_alpha(t):
        # sin of the complement: exactly 0 at t = 1, where cos(π/2) in floating point is not.
        return log(sin(half_pi * (1 - t) / (1 + s))) - log_alpha_0

    def time_of_log_alpha(a):
        return arccos(exp(a + log_alpha_0)) * (1 + s) / half_pi - s

    # At t_max lam is -5.1, as in DPM-Solver's treatment of this schedule (T = 0.9946 there).
    return _vp("vp_cosine", {"s": float(s)}, 1e-3, 0.9946, log_alpha, time_of_log_alpha)


def vp_discrete(betas: Sequence[float] | np.ndarray | torch.Tensor) -> Schedule:
    """The discrete schedule of DDPM: alpha_n² = Π_{i≤n} (1 − beta_i), joined by straight lines in log alpha.

    ``betas`` is [N] with values in (0, 1). Time t = (n + 1)/N is the n-th of them, t = 0 is the data, and the network
    is told n = t·N − 1, not below 0 (the convention of DPM-Solver, arXiv 2206.00927, appendix D.1).
    """
    b = np.asarray(betas.detach().cpu() if isinstance(betas, torch.Tensor) else betas, dtype=np.float64)
    if b.ndim != 1 or len(b) < 2 or not np.all((b > 0) & (b < 1)):
        raise ValueError(f"vp_discrete: betas must be a list of at least two numbers in (0, 1), got shape {b.shape}")
    count = len(b)
    times = np.arange(count + 1) / count
    log_alphas = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-b))])

    def model_time(t):
        return maximum(t * count - 1, 0.0)

    return _vp(
        "vp_discrete",
        {"betas": b.tolist()},
        1.0 / count,
        1.0,
        lambda t: interpolate(t, times, log_alphas),
        lambda a: interpolate(a, log_alphas[::-1].copy(), times[::-1].copy()),
        model_time,
    )


def edm(sigma_max: float = 80.0, sigma_min: float = 0.002) -> Schedule:
    """EDM (Karras et al. 2022): alpha = 1, sigma = sigma_max·t; the network is told sigma.

    ``sigma_min`` is where grids spaced in sigma end before the last step to 0.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"edm: need 0 < sigma_min < sigma_max, got {sigma_min!r} and {sigma_max!r}")
    return Schedule(
        name="edm",
        parameters={"sigma_max": float(sigma_max), "sigma_min": float(sigma_min)},
        t_min=sigma_min / sigma_max,
        t_max=1.0,
        _alpha=lambda t: t * 0 + 1.0,
        _sigma=lambda t: sigma_max * t,
        _lam=lambda t: -log(sigma_max * t),
        _time_of_lam=lambda lam: exp(-lam) / sigma_max,
        _model_time=lambda t: sigma_max * t,
    )


def ve(sigma_max: float = 50.0, sigma_min: float = 0.01) -> Schedule:
    """The VE SDE: alpha = 1, sigma = sigma_min·(sigma_max/sigma_min)^t (Song et al. 2021, eq. 30).

    sigma(0) is sigma_min, not 0; the network is told sigma.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"ve: need 0 < sigma_min < sigma_max, got {sigma_min!r} and {sigma_max!r}")
    low, span = math.log(sigma_min), math.log(sigma_max / sigma_min)
    return Schedule(
        name="ve",
        parameters={"sigma_max": float(sigma_max), "sigma_min": float(sigma_min)},
        t_min=0.0,
        t_max=1.0,
        _alpha=lambda t: t * 0 + 1.0,
        _sigma=lambda t: exp(low + span * t),
        _lam=lambda t: -(low + span * t),
        _time_of_lam=lambda lam: (-lam - low) / span,
        _model_time=lambda t: exp(low + span * t),
    )


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "flow": flow,
    "vp_linear": vp_linear,
    "vp_cosine": vp_cosine,
    "vp_discrete": vp_discrete,
    "edm": edm,
    "ve": ve,
}


def from_name(name: str, **parameters) -> Schedule:
    """The schedule called ``name``, as a saved plan or a model card names it."""
    return look_up("schedule", name, SCHEDULES)(**parameters)
