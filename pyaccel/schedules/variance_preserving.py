"""Schedules of the VP family in continuous time: the linear and the cosine one, and sub-VP."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..scalars import Scalar, arccos, arcsinh, cos, divide, exp, expm1, log, log1p, sin, softplus, sqrt
from .schedule import Schedule


def variance_preserving(
    name: str,
    parameters: dict,
    t_min: float,
    t_max: float,
    *,
    alpha: Callable[[Scalar], Scalar],
    sigma: Callable[[Scalar], Scalar],
    log_alpha: Callable[[Scalar], Scalar],
    drift: Callable[[Scalar], Scalar],
    time_of_log_alpha: Callable[[Scalar], Scalar],
    model_time: Callable[[Scalar], Scalar] = lambda t: t,
) -> Schedule:
    """A schedule with alpha² + sigma² = 1 from alpha, sigma, log alpha, its derivative and its inverse.

    As sigma² = 1 − alpha², g² = d sigma²/dt − 2·f·sigma² = −2·f.
    """
    return Schedule(
        name=name,
        parameters=parameters,
        t_min=t_min,
        t_max=t_max,
        _alpha=alpha,
        _sigma=sigma,
        _lam=lambda t: log_alpha(t) - log(sigma(t)),
        _drift=drift,
        _squared_diffusion=lambda t: -2 * drift(t),
        # alpha² = 1 / (1 + e^(-2 lam)) = 1 - sigma²
        _time_of_lam=lambda lam: time_of_log_alpha(-0.5 * softplus(-2 * lam)),
        _time_of_sigma=lambda s: time_of_log_alpha(0.5 * log1p(-s * s)),
        _model_time=model_time,
    )


class _LinearBeta:
    """log alpha = −½·∫beta for beta(t) = beta_min + t·(beta_max − beta_min), with derivative and inverse."""

    def __init__(self, name: str, beta_min: float, beta_max: float):
        if not 0 < beta_min < beta_max or not math.isfinite(beta_max):
            raise ValueError(f"{name}: need 0 < beta_min < beta_max, got {beta_min!r} and {beta_max!r}")
        self.beta_min, self.slope = beta_min, beta_max - beta_min
        self.parameters = {"beta_min": float(beta_min), "beta_max": float(beta_max)}

    def log_alpha(self, t: Scalar) -> Scalar:
        return -0.25 * t * t * self.slope - 0.5 * t * self.beta_min

    def drift(self, t: Scalar) -> Scalar:
        return -0.5 * (self.beta_min + t * self.slope)

    def time_of_log_alpha(self, a: Scalar) -> Scalar:
        # The root of the quadratic that does not cancel for small t.
        return -4 * a / (self.beta_min + sqrt(self.beta_min * self.beta_min - 4 * self.slope * a))


def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The VP SDE with linear beta(t) = beta_min + t·(beta_max − beta_min) (Song et al. 2021, eq. 33)."""
    beta = _LinearBeta("vp_linear", beta_min, beta_max)
    return variance_preserving(
        "vp_linear",
        beta.parameters,
        1e-3,
        1.0,
        alpha=lambda t: exp(beta.log_alpha(t)),
        sigma=lambda t: sqrt(-expm1(2 * beta.log_alpha(t))),
        log_alpha=beta.log_alpha,
        drift=beta.drift,
        time_of_log_alpha=beta.time_of_log_alpha,
    )


def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The sub-VP SDE (Song et al. 2021, eq. 29): alpha of :func:`vp_linear`, sigma = 1 − alpha².

    dx = −½·beta·x dt + √(beta·(1 − alpha⁴)) dw: the variance of the noise is below that of the VP SDE throughout.
    """
    beta = _LinearBeta("sub_vp", beta_min, beta_max)

    def sigma(t):
        return -expm1(2 * beta.log_alpha(t))

    return Schedule(
        name="sub_vp",
        parameters=beta.parameters,
        t_min=1e-3,
        t_max=1.0,
        _alpha=lambda t: exp(beta.log_alpha(t)),
        _sigma=sigma,
        _lam=lambda t: beta.log_alpha(t) - log(sigma(t)),
        _drift=beta.drift,
        _squared_diffusion=lambda t: 2 * beta.drift(t) * expm1(4 * beta.log_alpha(t)),
        # sigma/alpha = 1/alpha − alpha = 2·sinh(−log alpha)
        _time_of_lam=lambda lam: beta.time_of_log_alpha(-arcsinh(exp(-lam) / 2)),
        _time_of_sigma=lambda s: beta.time_of_log_alpha(0.5 * log1p(-s)),
        _model_time=lambda t: t,
    )


def vp_cosine(s: float = 0.008) -> Schedule:
    """The cosine schedule alpha(t) = cos(π/2·(t+s)/(1+s)) / cos(π/2·s/(1+s)) (Nichol & Dhariwal 2021, eq. 17)."""
    if not 0 <= s < 1:
        raise ValueError(f"vp_cosine: s must lie in [0, 1), got {s!r}")
    quarter = math.pi / 2 / (1 + s)
    cos_0 = math.cos(quarter * s)
    log_cos_0 = math.log(cos_0)

    def cosine(t):
        # sin of the complement: exactly 0 at t = 1, where cos(π/2) in floating point is not.
        return sin(quarter * (1 - t))

    def sigma(t):
        # cos²(b) − cos²(a) = sin(a − b)·sin(a + b): no cancellation near t = 0, a finite slope at t = 1.
        return sqrt(sin(quarter * t) * sin(quarter * (t + 2 * s))) / cos_0

    # At t_max lam is -5.1, as in DPM-Solver's treatment of this schedule (T = 0.9946 there).
    return variance_preserving(
        "vp_cosine",
        {"s": float(s)},
        1e-3,
        0.9946,
        alpha=lambda t: cosine(t) / cos_0,
        sigma=sigma,
        log_alpha=lambda t: log(cosine(t)) - log_cos_0,
        drift=lambda t: -quarter * divide(cos(quarter * (1 - t)), cosine(t)),
        time_of_log_alpha=lambda a: arccos(exp(a + log_cos_0)) / quarter - s,
    )
