"""Runge–Kutta methods on the probability-flow ODE: Heun, RK4 and DEIS rhoRK.

In the coordinates of EDM, y = x/alpha and rho = sigma/alpha, the ODE is dy/drho = eps (Karras et al. 2022, eq. 3 and
4). In the model's own time it is dx/dt = (d log alpha/dt)·x + g²/(2 sigma)·eps; for flow matching, in the time sigma,
the derivative is the flow itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .builder import Builder, Point, Value
from .ddim import transfer
from .family import solver
from .settings import option


@dataclass(frozen=True)
class Tableau:
    """Butcher's: the inner points' places in the step, their weights over earlier slopes, and the step's."""

    places: tuple[float, ...]
    inner: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


HEUN = Tableau((1.0,), ((1.0,),), (0.5, 0.5))
MIDPOINT = Tableau((0.5,), ((0.5,),), (0.0, 1.0))
KUTTA = Tableau((0.5, 1.0), ((0.5,), (-1.0, 2.0)), (1 / 6, 4 / 6, 1 / 6))
RK4 = Tableau((0.5, 0.5, 1.0), ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 2 / 6, 2 / 6, 1 / 6))


@solver(paper="Karras et al. 2022, arXiv 2206.00364, Algorithm 1", order="2", calls="2")
def heun(b: Builder, ode: str = "edm"):
    """Heun's method, EDM's deterministic sampler; a plain Euler step to sigma = 0.

    ``ode`` "edm" steps in x/alpha over sigma/alpha, "time" in the model's own time.
    """
    return _runge_kutta(b, "heun", HEUN, ode)


@solver(paper="Kutta 1901; on the ODE of Song et al. 2021, eq. 13", order="4", calls="4")
def rk4(b: Builder, ode: str = "edm"):
    """The classical Runge–Kutta method; a plain Euler step to sigma = 0. ``ode`` as of :func:`heun`."""
    return _runge_kutta(b, "rk4", RK4, ode)


@solver(paper="Zhang & Chen 2023, arXiv 2204.13902, section 4 and appendix H", order="order", calls="order")
def rho_rk(b: Builder, order: int = 2, variant: str = "heun"):
    """DEIS rhoRK: Runge–Kutta in rho = sigma/alpha; order 2 ("heun" or "midpoint"), 3 (Kutta's) or 4."""
    option("rho_rk", "order", order, (2, 3, 4))
    option("rho_rk", "variant", variant, ("heun", "midpoint"))
    second = HEUN if variant == "heun" else MIDPOINT
    return _runge_kutta(b, "rho_rk", {2: second, 3: KUTTA, 4: RK4}[order], "edm")


@solver(paper="after Zhu et al. 2025, arXiv 2507.14797 (EPD), untrained", order="2 (inner points by Euler)",
        calls="1 + points in parallel")  # fmt: skip
def epd(b: Builder, points: int = 2):
    """Parallel calls: Euler to the ``points`` nodes of Gauss' quadrature in each step, all of them in one batch.

    The slope of the step is their average with Gauss' weights. EPD-Solver learns places and weights; these are what its
    training may start from. The calls of a step do not need one another, so a step takes the time of two.
    """
    option("epd", "points", points, (1, 2, 3, 4))
    nodes, weights = np.polynomial.legendre.leggauss(points)
    x = b.noise()
    for s, t in b.intervals():
        form = s.form("epsilon")
        m = b.predict(x, s, form)
        if s.finite and t.finite:
            inner = [_at_ratio(b, s, t, float(0.5 * (node + 1))) for node in nodes]
            slopes = b.predict_many([(transfer(b, x, m, s, u, form), u) for u in inner], "epsilon")
            m = b.combine([(0.5 * float(w), slope) for w, slope in zip(weights, slopes, strict=True)])
        x = transfer(b, x, m, s, t, form)
    return x


def rho_step(b: Builder, x: Value, m: Value, s: Point, t: Point, tableau: Tableau, middle: str = "rho") -> Value:
    """One step in rho with the slope m, the noise read at s; Euler's where an end has no finite log-SNR.

    ``middle`` "t" puts the inner points at equal parts of the time, as PNDM does.
    """
    if not (s.finite and t.finite):
        return transfer(b, x, m, s, t, s.form("epsilon"))
    ratio = t.alpha / s.alpha
    rise = t.sigma - s.sigma * ratio
    # What is known of the result is added up before each call: one tensor carries it along.
    slopes, result = [m], b.combine([(ratio, x), *([(rise * tableau.weights[0], m)] if tableau.weights[0] else [])])
    for place, row, weight in zip(tableau.places, tableau.inner, tableau.weights[1:], strict=True):
        if place == 1.0:
            u = t
        else:
            u = _at_ratio(b, s, t, place) if middle == "rho" else b.point(t=s.t + place * (t.t - s.t))
        slope = b.combine([(a / place, k) for a, k in zip(row, slopes, strict=True) if a])
        slopes.append(b.predict(transfer(b, x, slope, s, u, "epsilon"), u, "epsilon"))
        result = result + (rise * weight) * slopes[-1]
    return result


def _at_ratio(b: Builder, s: Point, t: Point, place: float) -> Point:
    return b.point(lam=-math.log(s.ratio + place * (t.ratio - s.ratio)))


def _runge_kutta(b: Builder, name: str, tableau: Tableau, ode: str) -> Value:
    option(name, "ode", ode, ("edm", "time"))
    step = _time_step if ode == "time" else _edm_step
    x = b.noise()
    for s, t in b.intervals():
        x = step(b, x, s, t, tableau)
    return x


def _edm_step(b: Builder, x: Value, s: Point, t: Point, tableau: Tableau) -> Value:
    return rho_step(b, x, b.predict(x, s, s.form("epsilon")), s, t, tableau)


def _time_step(b: Builder, x: Value, s: Point, t: Point, tableau: Tableau) -> Value:
    if not s.finite and b.schedule.name != "flow":
        return transfer(b, x, b.predict(x, s, s.form("epsilon")), s, t, s.form("epsilon"))
    begin, dt = _clock(b, s), _clock(b, t) - _clock(b, s)
    slopes = [_slope(b, x, s)]
    if t.is_end:
        return x + dt * slopes[0]
    for place, row in zip(tableau.places, tableau.inner, strict=True):
        u = t if place == 1.0 else _at_clock(b, begin + place * dt)
        inner = b.combine([(1.0, x), *((dt * a, k) for a, k in zip(row, slopes, strict=True) if a)])
        slopes.append(_slope(b, inner, u))
    return b.combine([(1.0, x), *((dt * w, k) for w, k in zip(tableau.weights, slopes, strict=True) if w)])


def _clock(b: Builder, p: Point) -> float:
    return p.sigma if b.schedule.name == "flow" else p.t


def _at_clock(b: Builder, clock: float) -> Point:
    if b.schedule.name == "flow":
        return b.point(lam=math.log((1 - clock) / clock))
    return b.point(t=clock)


def _slope(b: Builder, x: Value, s: Point) -> Value:
    """dx by the clock."""
    if b.schedule.name == "flow":
        return b.predict(x, s, "flow")
    m, g = b.predict(x, s, "epsilon"), b.schedule.diffusion(s.t)
    return b.schedule.drift(s.t) * x + (g * g / (2 * s.sigma)) * m
