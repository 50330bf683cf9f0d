"""DPM-Solver++, multistep, without noise."""

from __future__ import annotations

import math

from ...mixture import at


def dpmpp_2m(schedule, times, model, noise, lower_order_final):
    """Lu et al. 2022 (DPM-Solver++), Algorithm 2."""
    x, previous = schedule.sigma(times[0]) * noise, None
    for i in range(1, len(times)):
        s, t = times[i - 1], times[i]
        m = model(x, at(s))
        h = schedule.lam(t) - schedule.lam(s)
        d = m
        if previous is not None and not (lower_order_final and i == len(times) - 1):
            r = (schedule.lam(s) - schedule.lam(times[i - 2])) / h
            d = (1 + 1 / (2 * r)) * m - 1 / (2 * r) * previous
        x = schedule.sigma(t) / schedule.sigma(s) * x - schedule.alpha(t) * math.expm1(-h) * d
        previous = m
    return x


def dpmpp_3m(schedule, times, model, noise):
    """The multistep third-order update of DPM-Solver++ as published, without lowering the final order."""
    x, history = schedule.sigma(times[0]) * noise, []
    for i in range(1, len(times)):
        s, t = times[i - 1], times[i]
        history.append((schedule.lam(s), model(x, at(s))))
        lam0, m0 = history[-1]
        h = schedule.lam(t) - lam0
        phi1 = math.expm1(-h)
        base = schedule.sigma(t) / schedule.sigma(s) * x - schedule.alpha(t) * phi1 * m0
        if len(history) == 1:
            x = base
            continue
        lam1, m1 = history[-2]
        r0 = (lam0 - lam1) / h
        if len(history) == 2:
            x = base - 0.5 * schedule.alpha(t) * phi1 * (m0 - m1) / r0
            continue
        lam2, m2 = history[-3]
        r1 = (lam1 - lam2) / h
        d1_0, d1_1 = (m0 - m1) / r0, (m1 - m2) / r1
        d1 = d1_0 + r0 / (r0 + r1) * (d1_0 - d1_1)
        d2 = (d1_0 - d1_1) / (r0 + r1)
        phi2 = phi1 / h + 1
        phi3 = phi2 / h - 0.5
        x = base + schedule.alpha(t) * phi2 * d1 - schedule.alpha(t) * phi3 * d2
    return x
