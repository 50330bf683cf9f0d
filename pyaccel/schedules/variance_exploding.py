"""Schedules with alpha = 1, in which only the noise grows: EDM and the VE SDE."""

from __future__ import annotations

import math

from ..scalars import exp, log
from .schedule import Schedule


def edm(sigma_max: float = 80.0, sigma_min: float = 0.002) -> Schedule:
    """EDM (Karras et al. 2022): alpha = 1, sigma = sigma_max·t; the network is told sigma.

    ``sigma_min`` is where grids spaced in sigma end before the last step to 0.
    """
    _check("edm", sigma_max, sigma_min)
    return Schedule(
        name="edm",
        parameters={"sigma_max": float(sigma_max), "sigma_min": float(sigma_min)},
        t_min=sigma_min / sigma_max,
        t_max=1.0,
        _alpha=lambda t: t * 0 + 1.0,
        _sigma=lambda t: sigma_max * t,
        _lam=lambda t: -log(sigma_max * t),
        _drift=lambda t: t * 0.0,
        _squared_diffusion=lambda t: 2.0 * sigma_max * sigma_max * t,
        _time_of_lam=lambda lam: exp(-lam) / sigma_max,
        _time_of_sigma=lambda s: s / sigma_max,
        _model_time=lambda t: sigma_max * t,
    )


def ve(sigma_max: float = 50.0, sigma_min: float = 0.01) -> Schedule:
    """The VE SDE: alpha = 1, sigma = sigma_min·(sigma_max/sigma_min)^t (Song et al. 2021, eq. 30).

    sigma(0) is sigma_min, not 0; the network is told sigma.
    """
    _check("ve", sigma_max, sigma_min)
    low, span = math.log(sigma_min), math.log(sigma_max / sigma_min)

    def sigma(t):
        return exp(low + span * t)

    return Schedule(
        name="ve",
        parameters={"sigma_max": float(sigma_max), "sigma_min": float(sigma_min)},
        t_min=0.0,
        t_max=1.0,
        _alpha=lambda t: t * 0 + 1.0,
        _sigma=sigma,
        _lam=lambda t: -(low + span * t),
        _drift=lambda t: t * 0.0,
        _squared_diffusion=lambda t: 2 * span * sigma(t) ** 2,
        _time_of_lam=lambda lam: (-lam - low) / span,
        _time_of_sigma=lambda s: (log(s) - low) / span,
        _model_time=sigma,
    )


def _check(name: str, sigma_max: float, sigma_min: float) -> None:
    if not 0 < sigma_min < sigma_max or not math.isfinite(sigma_max):
        raise ValueError(f"{name}: need 0 < sigma_min < sigma_max, got {sigma_min!r} and {sigma_max!r}")
