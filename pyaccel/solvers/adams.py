"""Adams–Bashforth methods over the noise: DEIS, rhoAB, LMS, iPNDM, iPNDM-v and PNDM.

With y = x/alpha and rho = sigma/alpha the probability-flow ODE is dy/drho = eps (DEIS, Zhang & Chen 2023, eq. 9 and
section 3.3), so

    x_t = (alpha_t/alpha_s)·x + alpha_t·Σ_j w_j·eps_j,   w_j = ∫_(rho_s)^(rho_t) l_j drho

with l_j the Lagrange polynomials through the last predictions. The methods differ in the variable that l_j is a
polynomial of: rho (rhoAB, LMS, iPNDM-v), the time (tAB), log rho; or take the weights of equal steps whatever the steps
are (PNDM, iPNDM).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .builder import Builder, Point, Value
from .ddim import transfer
from .exponential import Exponential
from .family import solver
from .runge_kutta import RK4, rho_step
from .settings import option

EQUAL_STEPS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights of Adams–Bashforth with equal steps, the newest first, as shares of the step."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
_TWO_NODES, _TWO_WEIGHTS = np.polynomial.legendre.leggauss(2)


@solver(paper="Zhang & Chen 2023, arXiv 2204.13902, eq. 15", order="order + 1")
def deis(b: Builder, order: int = 3, polynomial: str = "t"):
    """DEIS tAB: extrapolates the noise by a polynomial in time of degree ``order``, 0 to 3.

    Its integrals are taken by Gauss–Legendre quadrature with 32 nodes, exact to rounding. ``polynomial`` "rho" is rhoAB
    (:func:`rho_ab`), "log_rho" the form that the diffusers library has. Degree 0 is DDIM.
    """
    option("deis", "order", order, (0, 1, 2, 3))
    weights = {"t": time_weights, "rho": rho_weights, "log_rho": log_rho_weights}
    option("deis", "polynomial", polynomial, tuple(weights))
    return adams(b, order + 1, weights[polynomial], ends=polynomial != "log_rho")


@solver(paper="Zhang & Chen 2023, arXiv 2204.13902, section 4", order="order + 1")
def rho_ab(b: Builder, order: int = 3):
    """DEIS rhoAB: extrapolates the noise by a polynomial in rho = sigma/alpha of degree ``order``, 0 to 3."""
    option("rho_ab", "order", order, (0, 1, 2, 3))
    return adams(b, order + 1, rho_weights)


@solver(paper="k-diffusion, sample_lms", order="order", lowers=False)
def lms(b: Builder, order: int = 4):
    """LMS: the linear multistep method in sigma/alpha with exact coefficients, ``order`` predictions."""
    option("lms", "order", order, (1, 2, 3, 4))
    return adams(b, order, rho_weights)


@solver(paper="Zhang & Chen 2023, arXiv 2204.13902, appendix H.2", order="order (equal steps in rho)", lowers=False)
def ipndm(b: Builder, order: int = 4):
    """iPNDM: the weights of Adams–Bashforth with equal steps, of lower order for the first steps."""
    option("ipndm", "order", order, (1, 2, 3, 4))
    return adams(b, order, _equal_weights)


@solver(paper="Zhang & Chen 2023, arXiv 2204.13902, with variable steps", order="order", lowers=False)
def ipndm_v(b: Builder, order: int = 4):
    """iPNDM-v: Adams–Bashforth with the weights of the steps as they are; in sigma/alpha, as iPNDM."""
    option("ipndm_v", "order", order, (1, 2, 3, 4))
    return adams(b, order, rho_weights)


@solver(paper="Liu et al. 2022, arXiv 2202.09778, Algorithm 2", order="2 to 4 (equal steps)", lowers=False,
        calls="1; first steps 4 (prk) or 2 (plms)")  # fmt: skip
def pndm(b: Builder, warmup: str = "prk"):
    """PNDM: transfers by the average of four predictions with the weights of Adams–Bashforth with equal steps.

    ``warmup`` "prk" makes the first three steps by the pseudo Runge–Kutta method, with four calls each (F-PNDM); "plms"
    makes the first by Heun's with two and grows the order from there, which is how Stable Diffusion uses it.
    """
    option("pndm", "warmup", warmup, ("prk", "plms"))
    x, history = b.noise(), []
    for s, t in b.intervals():
        m = b.predict(x, s, s.form("epsilon"))
        if s.is_start:
            x = transfer(b, x, m, s, t, "sample")
            continue
        history = [m, *history][:4]
        if warmup == "prk" and len(history) < 4:
            x = rho_step(b, x, m, s, t, RK4, middle="t")
        elif warmup == "plms" and len(history) == 1 and not t.is_end:
            ahead = b.predict(transfer(b, x, m, s, t, "epsilon"), t, "epsilon")
            x = transfer(b, x, 0.5 * (m + ahead), s, t, "epsilon")
        else:
            average = _total([w * e for w, e in zip(EQUAL_STEPS[len(history) - 1], history, strict=True)])
            x = transfer(b, x, average, s, t, "epsilon")
    return x


def adams(b: Builder, order: int, weights: Callable, ends: bool = True) -> Value:
    """The multistep loop; ``weights(b, s, t, points)`` are those of eps at ``points``, the newest first, in x_t.

    ``ends`` says whether they are finite where sigma_t is 0.
    """
    x, history = b.noise(), []
    for s, t in b.intervals():
        m = b.predict(x, s, s.form("epsilon"))
        if s.is_start:
            x = transfer(b, x, m, s, t, "sample")
            continue
        history = [(s, m), *(pair for pair in history if pair[0].finite)][:order]
        rank = min(len(history), len(b.points) - 1 - s.index) if b.lower_order_final else len(history)
        if not s.finite or (t.is_end and not ends):
            rank = 1
        used = history[:rank]
        if rank == 1:
            x = transfer(b, x, m, s, t, "epsilon")
            continue
        factors = weights(b, s, t, [p for p, _ in used])
        x = _total([(t.alpha / s.alpha) * x, *(w * e for w, (_, e) in zip(factors, used, strict=True))])
    return x


def _total(values: list[Value]) -> Value:
    return values[0].builder.combine([(1.0, v) for v in values])


def rho_weights(b: Builder, s: Point, t: Point, points: list[Point]) -> list[float]:
    """alpha_t·∫ l_j drho with l_j polynomials in rho: exact by Gauss–Legendre with as many nodes as needed."""
    nodes, weights = (_TWO_NODES, _TWO_WEIGHTS) if len(points) <= 4 else (_NODES, _WEIGHTS)
    half = 0.5 * (t.ratio - s.ratio)
    at = s.ratio + half * (nodes + 1)
    return _integrated([p.ratio for p in points], at, t.alpha * half * weights)


def time_weights(b: Builder, s: Point, t: Point, points: list[Point]) -> list[float]:
    """The same with l_j polynomials in time, by quadrature over rho."""
    half = 0.5 * (t.ratio - s.ratio)
    at = b.schedule.time_of_lam(-np.log(s.ratio + half * (_NODES + 1)))
    return _integrated([p.t for p in points], at, t.alpha * half * _WEIGHTS)


def log_rho_weights(b: Builder, s: Point, t: Point, points: list[Point]) -> list[float]:
    """The same with l_j polynomials in log rho: the exponential Adams method over the noise, in closed form."""
    nodes = [(p.lam - s.lam) / (t.lam - s.lam) for p in points[1:]]
    return Exponential(s, t, "epsilon").weights(nodes)


def _equal_weights(b: Builder, s: Point, t: Point, points: list[Point]) -> list[float]:
    step = t.sigma - s.sigma * t.alpha / s.alpha
    return [step * w for w in EQUAL_STEPS[len(points) - 1]]


def _integrated(knots: list[float], at: np.ndarray, weights: np.ndarray) -> list[float]:
    """Σ_i weights_i·l_j(at_i) for each Lagrange polynomial through ``knots``."""
    result = []
    for j, own in enumerate(knots):
        values = weights
        for k, other in enumerate(knots):
            if k != j:
                values = values * ((at - other) / (own - other))
        result.append(float(values.sum()))
    return result
