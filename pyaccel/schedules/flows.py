"""Schedules without a beta: the straight line of flow matching, and TrigFlow's quarter circle."""

from __future__ import annotations

import math

from ..scalars import arcsin, arctan, cos, divide, exp, log, sin, softplus
from .schedule import Schedule


def flow(shift: float = 1.0) -> Schedule:
    """Flow matching (rectified flow): alpha = 1 − s, sigma = s with s = shift·t / (1 + (shift − 1)·t).

    ``shift`` is that of Stable Diffusion 3 (Esser et al. 2024, eq. 23); with 1, s = t. The network is told s. For the
    shift that goes with a resolution see :func:`shift_of_tokens` and :func:`shift_of_resolution`.
    """
    if not shift > 0 or not math.isfinite(shift):
        raise ValueError(f"flow: shift must be a positive number, got {shift!r}")

    def sigma(t):
        return shift * t / (1 + (shift - 1) * t)

    def alpha(t):
        return (1 - t) / (1 + (shift - 1) * t)

    def drift(t):
        # −(ds/dt)/(1 − s), with ds/dt = shift/(1 + (shift − 1)·t)²
        return divide(-shift / (1 + (shift - 1) * t), 1 - t)

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
        _drift=drift,
        _squared_diffusion=lambda t: -2 * sigma(t) * drift(t),
        _time_of_lam=lambda lam: unshift(exp(-softplus(lam))),  # s = 1/(1 + e^lam)
        _time_of_sigma=unshift,
        _model_time=sigma,
    )


def trigflow(sigma_data: float = 0.5) -> Schedule:
    """TrigFlow (Lu & Song 2024, arXiv 2410.11081, section 3): x_t = cos(u)·x0 + sin(u)·z, u = π/2·t.

    z is Gaussian with the standard deviation ``sigma_data`` of the data, so alpha = cos(u) and
    sigma = sigma_data·sin(u), and the standard deviation of x_t is sigma_data throughout. The network is told the angle
    u, in [0, π/2]; that its input is x_t/sigma_data is the network's business, not the schedule's. ``t_max`` and
    ``t_min`` are the paper's u = arctan(80/sigma_data) and EDM's u = arctan(0.002/sigma_data).
    """
    if not sigma_data > 0 or not math.isfinite(sigma_data):
        raise ValueError(f"trigflow: sigma_data must be a positive number, got {sigma_data!r}")
    half_pi = math.pi / 2
    log_sigma_data = math.log(sigma_data)

    def alpha(t):
        # sin of the complement: exactly 0 at t = 1, where cos(π/2) in floating point is not.
        return sin(half_pi * (1 - t))

    def sigma(t):
        return sigma_data * sin(half_pi * t)

    def drift(t):
        return -half_pi * divide(cos(half_pi * (1 - t)), alpha(t))

    return Schedule(
        name="trigflow",
        parameters={"sigma_data": float(sigma_data)},
        t_min=math.atan(0.002 / sigma_data) / half_pi,
        t_max=math.atan(80 / sigma_data) / half_pi,
        _alpha=alpha,
        _sigma=sigma,
        _lam=lambda t: log(alpha(t)) - log(sigma(t)),
        _drift=drift,
        _squared_diffusion=lambda t: -2 * sigma_data * sigma_data * drift(t),
        _time_of_lam=lambda lam: arctan(exp(-lam - log_sigma_data)) / half_pi,
        _time_of_sigma=lambda s: arcsin(s / sigma_data) / half_pi,
        _model_time=lambda t: half_pi * t,
    )


def shift_of_tokens(
    tokens: int,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> float:
    """The shift of FLUX for an image of ``tokens`` tokens: e^mu, with mu linear in their number.

    mu runs from ``base_shift`` at ``base_tokens`` to ``max_shift`` at ``max_tokens``, and straight on beyond. A token
    of FLUX is 16 × 16 pixels. The defaults are FLUX's own; other models have theirs in the scheduler's configuration
    (base_image_seq_len, max_image_seq_len, base_shift, max_shift). ``flow(shift_of_tokens(4096))`` is FLUX at 1024².
    """
    if not tokens > 0 or not 0 < base_tokens < max_tokens:
        raise ValueError(
            "shift_of_tokens: need tokens > 0 and 0 < base_tokens < max_tokens, got "
            f"{tokens!r}, {base_tokens!r} and {max_tokens!r}"
        )
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return math.exp(base_shift + slope * (tokens - base_tokens))


def shift_of_resolution(pixels: int, trained_pixels: int) -> float:
    """√(pixels / trained_pixels), the shift for m pixels of a model trained without one on n (Esser et al. 2024,
    eq. 23). ``flow(shift_of_resolution(1024 * 1024, 512 * 512))`` has shift 2."""
    if not (pixels > 0 and trained_pixels > 0):
        raise ValueError(f"shift_of_resolution: both counts must be positive, got {pixels!r} and {trained_pixels!r}")
    return math.sqrt(pixels / trained_pixels)
