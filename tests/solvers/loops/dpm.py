"""DPM-Solver over the noise and DPM-Solver++ over x0: singlestep, multistep, and as SDE."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ...mixture import at


def eps_of(schedule, model, x, t):
    """The prediction of the noise."""
    return (x - schedule.alpha(t) * model(x, at(t))) / schedule.sigma(t)


def _one_step_eps(schedule, model, x, s, t, order, correction, variant):
    """Lu et al. 2022 (DPM-Solver), Algorithms 1 and 2 with r1 = 1/2, and r1 = 1/3, r2 = 2/3.

    "heun" of second order weights the difference by (e^h − 1)/h − 1, "exact" of third is their "taylor".
    """
    a, sg, lam = schedule.alpha, schedule.sigma, schedule.lam
    h = lam(t) - lam(s)
    e0 = eps_of(schedule, model, x, s)
    base = a(t) / a(s) * x - sg(t) * math.expm1(h) * e0
    if order == 1:
        return base
    if order == 2:
        u = schedule.time_of_lam(lam(s) + h / 2)
        x_u = a(u) / a(s) * x - sg(u) * math.expm1(h / 2) * e0
        d = eps_of(schedule, model, x_u, u) - e0
        weight = math.expm1(h) if correction != "heun" else 2 * (math.expm1(h) / h - 1)
        return base - sg(t) * weight * d
    r1, r2 = 1 / 3, 2 / 3
    u1, u2 = (schedule.time_of_lam(lam(s) + r * h) for r in (r1, r2))
    x_1 = a(u1) / a(s) * x - sg(u1) * math.expm1(r1 * h) * e0
    d1 = eps_of(schedule, model, x_1, u1) - e0
    x_2 = a(u2) / a(s) * x - sg(u2) * math.expm1(r2 * h) * e0
    x_2 = x_2 - sg(u2) * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
    d2 = eps_of(schedule, model, x_2, u2) - e0
    phi2 = math.expm1(h) / h - 1
    if variant == "published":
        return base - sg(t) / r2 * phi2 * d2
    d1, d2 = d1 / r1, d2 / r2
    first, second = (r2 * d1 - r1 * d2) / (r2 - r1), 2 * (d2 - d1) / (r2 - r1)
    return base - sg(t) * phi2 * first - sg(t) * ((math.expm1(h) - h) / h**2 - 0.5) * second


def _one_step_x0(schedule, model, x, s, t, order, correction, variant):
    """Lu et al. 2022 (DPM-Solver++), Algorithm 1, and the authors' code for the third order."""
    a, sg, lam = schedule.alpha, schedule.sigma, schedule.lam
    h = lam(t) - lam(s)
    m0 = model(x, at(s))
    base = sg(t) / sg(s) * x - a(t) * math.expm1(-h) * m0
    if order == 1:
        return base
    if order == 2:
        u = schedule.time_of_lam(lam(s) + h / 2)
        d = model(sg(u) / sg(s) * x - a(u) * math.expm1(-h / 2) * m0, at(u)) - m0
        weight = -math.expm1(-h) if correction != "heun" else 2 * (math.expm1(-h) / h + 1)
        return base + a(t) * weight * d
    r1, r2 = 1 / 3, 2 / 3
    u1, u2 = (schedule.time_of_lam(lam(s) + r * h) for r in (r1, r2))
    d1 = model(sg(u1) / sg(s) * x - a(u1) * math.expm1(-r1 * h) * m0, at(u1)) - m0
    x_2 = sg(u2) / sg(s) * x - a(u2) * math.expm1(-r2 * h) * m0
    x_2 = x_2 + r2 / r1 * a(u2) * (math.expm1(-r2 * h) / (r2 * h) + 1) * d1
    d2 = model(x_2, at(u2)) - m0
    phi2 = math.expm1(-h) / h + 1
    if variant == "published":
        return base + a(t) * phi2 / r2 * d2
    d1, d2 = d1 / r1, d2 / r2
    first, second = (r2 * d1 - r1 * d2) / (r2 - r1), 2 * (d2 - d1) / (r2 - r1)
    return base + a(t) * phi2 * first - a(t) * (phi2 / h - 0.5) * second


def dpm_singlestep(schedule, times, model, noise, order, form, lower_order_final, correction="", variant="published"):
    """``order`` calls a step; with lower_order_final the last steps are of order 2 and 1."""
    step = _one_step_x0 if form == "sample" else _one_step_eps
    x, count = schedule.sigma(times[0]) * noise, len(times) - 1
    for i, (s, t) in enumerate(itertools.pairwise(times)):
        rank = min(order, count - i) if lower_order_final else order
        x = step(schedule, model, x, s, t, rank, correction, variant)
    return x


def dpm_fast(schedule, start, end, model, noise, calls, form):
    """DPM-Solver-fast (section 3.4): M + 1 intervals equal in log-SNR, order 3 and what is left."""
    rest = calls % 3
    count = calls // 3 + 1
    orders = [3] * (count - 2) + [2, 1] if rest == 0 else [3] * (count - 1) + [rest]
    times = [schedule.time_of_lam(float(v)) for v in np.linspace(schedule.lam(start), schedule.lam(end), count + 1)]
    times[0], times[-1] = start, end
    step = _one_step_x0 if form == "sample" else _one_step_eps
    x = schedule.sigma(start) * noise
    for (s, t), order in zip(itertools.pairwise(times), orders, strict=True):
        x = step(schedule, model, x, s, t, order, "", "published")
    return x


def dpm_multistep(schedule, times, model, noise, order, lower_order_final, correction="", variant="published"):
    """DPM-Solver over the noise with earlier predictions: the formulas of the authors' code, "dpmsolver".

    "exact" gives the second difference all of its weight in Taylor's series, twice the published one.
    """
    x, history, count = schedule.sigma(times[0]) * noise, [], len(times) - 1
    for i, (s, t) in enumerate(itertools.pairwise(times)):
        history = [(schedule.lam(s), eps_of(schedule, model, x, s)), *history][:3]
        rank = min(order, i + 1, count - i) if lower_order_final else min(order, i + 1)
        h = schedule.lam(t) - schedule.lam(s)
        (lam0, m0), *older = history
        sigma = schedule.sigma(t)
        x = schedule.alpha(t) / schedule.alpha(s) * x - sigma * math.expm1(h) * m0
        if rank >= 2:
            lam1, m1 = older[0]
            r0 = (lam0 - lam1) / h
            d1_0 = (m0 - m1) / r0
        if rank == 2:
            weight = 0.5 * math.expm1(h) if correction != "heun" else math.expm1(h) / h - 1
            x = x - sigma * weight * d1_0
        if rank == 3:
            lam2, m2 = older[1]
            r1 = (lam1 - lam2) / h
            d1_1 = (m1 - m2) / r1
            d1 = d1_0 + r0 / (r0 + r1) * (d1_0 - d1_1)
            d2 = (d1_0 - d1_1) / (r0 + r1) * (1 if variant == "published" else 2)
            x = x - sigma * (math.expm1(h) / h - 1) * d1 - sigma * ((math.expm1(h) - h) / h**2 - 0.5) * d2
    return x


def sde_multistep(schedule, times, model, noise, draw, order, lower_order_final, correction="", eta=1.0, s_noise=1.0):
    """SDE-DPM-Solver++ (Lu et al. 2022, section 5) in k-diffusion's form with eta, H = (1 + eta)·h."""
    x, history, count = schedule.sigma(times[0]) * noise, [], len(times) - 1
    for i, (s, t) in enumerate(itertools.pairwise(times)):
        m = model(x, at(s))
        if schedule.sigma(t) == 0:
            return schedule.alpha(t) * m
        history = [(schedule.lam(s), m), *history][:3]
        rank = min(order, i + 1, count - i) if lower_order_final else min(order, i + 1)
        h = schedule.lam(t) - schedule.lam(s)
        both, alpha, sigma = (1 + eta) * h, schedule.alpha(t), schedule.sigma(t)
        (lam0, m0), *older = history
        x = sigma / schedule.sigma(s) * math.exp(-eta * h) * x + alpha * (1 - math.exp(-both)) * m0
        if rank >= 2:
            lam1, m1 = older[0]
            d1_0 = (m0 - m1) / ((lam0 - lam1) / h)
        phi2 = math.expm1(-both) / both + 1
        if rank == 2:
            x = x + alpha * (0.5 * (1 - math.exp(-both)) if correction != "heun" else phi2) * d1_0
        if rank == 3:
            lam2, m2 = older[1]
            r0, r1 = (lam0 - lam1) / h, (lam1 - lam2) / h
            d1_1 = (m1 - m2) / r1
            d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
            x = x + alpha * phi2 * d1 - alpha * (phi2 / both - 0.5) * (d1_0 - d1_1) / (r0 + r1)
        if eta:
            amount = sigma * math.sqrt(1 - math.exp(-2 * eta * h))
            x = x + s_noise * amount * draw(schedule.ratio(s), schedule.ratio(t))
    return x


def sde_singlestep(schedule, times, model, noise, path, eta=1.0, s_noise=1.0):
    """DPM++ SDE of k-diffusion with r = 1/2, in y = x/alpha; ``path(rho)`` is a Brownian path over rho."""

    def shared(a, b):
        return (path(a) - path(b)) / math.sqrt(a - b)

    def ancestral(a, b):
        up = min(b, eta * math.sqrt(b**2 * (a**2 - b**2) / a**2))
        return math.sqrt(b**2 - up**2), up

    y = schedule.ratio(times[0]) * noise
    for s, t in itertools.pairwise(times):
        rho_s, rho_t = schedule.ratio(s), schedule.ratio(t)
        m = model(schedule.alpha(s) * y, at(s))
        if rho_t == 0:
            y = m
            continue
        rho_u = math.sqrt(rho_s * rho_t)
        u = schedule.time_of_ratio(rho_u)
        down, up = ancestral(rho_s, rho_u)
        y_u = down / rho_s * y + (1 - down / rho_s) * m + s_noise * up * shared(rho_s, rho_u)
        m_u = model(schedule.alpha(u) * y_u, at(u))
        down, up = ancestral(rho_s, rho_t)
        y = down / rho_s * y + (1 - down / rho_s) * m_u + s_noise * up * shared(rho_s, rho_t)
    return schedule.alpha(times[-1]) * y
