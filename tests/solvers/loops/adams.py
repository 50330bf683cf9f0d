"""Multistep methods over the noise: DEIS, LMS, iPNDM, PNDM."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .dpm import eps_of


def _lagrange(knots, j, at):
    result = np.ones_like(at)
    for k, other in enumerate(knots):
        if k != j:
            result = result * (at - other) / (knots[j] - other)
    return result


def _quadrature(low, high, count=48):
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


def _tab(beta, schedule, s, t, knots):
    """Zhang & Chen 2023, eq. 15 for the VP SDE: ∫ ½ √(ᾱ_t/ᾱ_τ)·beta(τ)/√(1 − ᾱ_τ)·l_j(τ) dτ."""
    tau, w = _quadrature(s, t)
    alpha = np.array([schedule.alpha(float(u)) for u in tau])
    sigma = np.array([schedule.sigma(float(u)) for u in tau])
    kernel = 0.5 * schedule.alpha(t) / alpha * np.array([beta(u) for u in tau]) / sigma
    return [float(np.sum(w * kernel * _lagrange(knots, j, tau))) for j in range(len(knots))]


def _rho_ab(schedule, s, t, knots):
    """∫ l_j d rho with l_j polynomials in rho, by their coefficients."""
    rhos, result = [schedule.ratio(p) for p in knots], []
    for j, own in enumerate(rhos):
        others = [r for k, r in enumerate(rhos) if k != j]
        polynomial = np.poly1d(np.poly(others) if others else [1.0])
        integral = polynomial.integ()
        result.append((integral(schedule.ratio(t)) - integral(schedule.ratio(s))) / polynomial(own) * schedule.alpha(t))
    return result


def _log_rho(schedule, s, t, knots):
    """∫ l_j d rho with l_j polynomials in u = log rho: ∫ l_j(u)·e^u du."""
    u, w = _quadrature(math.log(schedule.ratio(s)), math.log(schedule.ratio(t)))
    logs = [math.log(schedule.ratio(p)) for p in knots]
    return [float(np.sum(w * np.exp(u) * _lagrange(logs, j, u))) * schedule.alpha(t) for j in range(len(knots))]


def deis(schedule, times, model, noise, order, polynomial, lower_order_final, beta=None):
    """x_t = (alpha_t/alpha_s)·x + Σ_j C_j·eps_j with ``order`` + 1 predictions, fewer at the start.

    With lower_order_final also towards the end. ``beta`` is that of the SDE, for polynomials in time.
    """
    x, history, count = schedule.sigma(times[0]) * noise, [], len(times) - 1
    for i, (s, t) in enumerate(itertools.pairwise(times)):
        history = [(s, eps_of(schedule, model, x, s)), *history][: order + 1]
        rank = min(len(history), count - i) if lower_order_final else len(history)
        knots = [p for p, _ in history[:rank]]
        if polynomial == "t":
            factors = _tab(beta, schedule, s, t, knots)
        else:
            factors = (_rho_ab if polynomial == "rho" else _log_rho)(schedule, s, t, knots)
        x = schedule.alpha(t) / schedule.alpha(s) * x
        x = x + sum(c * e for c, (_, e) in zip(factors, history[:rank], strict=True))
    return x


def lms(schedule, times, model, noise, order):
    """k-diffusion's linear multistep method: ``order`` predictions, polynomials in rho = sigma/alpha."""
    return deis(schedule, times, model, noise, order - 1, "rho", False)


AVERAGES = {
    1: [1.0],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}


def _transfer(schedule, x, e, s, t):
    """Liu et al. 2022, eq. 11."""
    bar_s, bar_t = schedule.alpha(s) ** 2, schedule.alpha(t) ** 2
    below = math.sqrt(bar_s) * (math.sqrt((1 - bar_t) * bar_s) + math.sqrt((1 - bar_s) * bar_t))
    return math.sqrt(bar_t / bar_s) * x - (bar_t - bar_s) / below * e


def pndm(schedule, times, model, noise, warmup, order=4):
    """Liu et al. 2022, Algorithm 2: pseudo Runge–Kutta for three steps, then pseudo linear multistep.

    ``warmup`` "plms" begins with Heun's step and two and three predictions, as PLMS does; "none", with Euler's, is
    iPNDM (Zhang & Chen 2023, appendix H.2).
    """

    def theta(x, t):
        return eps_of(schedule, model, x, t)

    x, history = schedule.sigma(times[0]) * noise, []
    for s, t in itertools.pairwise(times):
        e1 = theta(x, s)
        history = [e1, *history][:order]
        if warmup == "prk" and len(history) < 4:
            middle = s + (t - s) / 2
            e2 = theta(_transfer(schedule, x, e1, s, middle), middle)
            e3 = theta(_transfer(schedule, x, e2, s, middle), middle)
            e4 = theta(_transfer(schedule, x, e3, s, t), t)
            e = (e1 + 2 * e2 + 2 * e3 + e4) / 6
        elif warmup == "plms" and len(history) == 1:
            e = (e1 + theta(_transfer(schedule, x, e1, s, t), t)) / 2
        else:
            e = sum(w * p for w, p in zip(AVERAGES[len(history)], history, strict=True))
        x = _transfer(schedule, x, e, s, t)
    return x
