"""Runge–Kutta methods on the probability-flow ODE, as functions of an ODE's right-hand side."""

from __future__ import annotations

import itertools

import numpy as np

from ...mixture import at


def euler(f, y, u, h):
    return y + h * f(y, u)


def heun(f, y, u, h):
    k1 = f(y, u)
    return y + h / 2 * (k1 + f(y + h * k1, u + h))


def midpoint(f, y, u, h):
    return y + h * f(y + h / 2 * f(y, u), u + h / 2)


def kutta3(f, y, u, h):
    k1 = f(y, u)
    k2 = f(y + h / 2 * k1, u + h / 2)
    return y + h / 6 * (k1 + 4 * k2 + f(y + h * (2 * k2 - k1), u + h))


def rk4(f, y, u, h):
    k1 = f(y, u)
    k2 = f(y + h / 2 * k1, u + h / 2)
    k3 = f(y + h / 2 * k2, u + h / 2)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(y + h * k3, u + h))


def gauss_by_euler(points):
    """Slopes at Gauss' nodes, reached by Euler, with Gauss' weights."""

    def step(f, y, u, h):
        nodes, weights = np.polynomial.legendre.leggauss(points)
        k1 = f(y, u)
        slopes = [f(y + h * (c + 1) / 2 * k1, u + h * (c + 1) / 2) for c in nodes]
        return y + h * sum(w / 2 * k for w, k in zip(weights, slopes, strict=True))

    return step


def runge_kutta_in_ratio(schedule, times, model, noise, step):
    """dy/drho = (y − x0)/rho, y = x/alpha, rho = sigma/alpha (Karras et al. 2022, eq. 3); Euler to rho = 0."""

    def f(y, rho):
        t = schedule.time_of_ratio(rho)
        return (y - model(schedule.alpha(t) * y, at(t))) / rho

    y = schedule.ratio(times[0]) * noise
    for s, t in itertools.pairwise(times):
        h = schedule.ratio(t) - schedule.ratio(s)
        y = (euler if schedule.ratio(t) == 0 else step)(f, y, schedule.ratio(s), h)
    return schedule.alpha(times[-1]) * y


def epd(schedule, times, model, noise, points):
    """Parallel slopes in each step."""
    return runge_kutta_in_ratio(schedule, times, model, noise, gauss_by_euler(points))


def runge_kutta_in_time(f, start, times, step):
    """dx/dt = f(x, t); Euler to t = 0."""
    x = start
    for s, t in itertools.pairwise(times):
        x = (euler if t == 0 else step)(f, x, s, t - s)
    return x
