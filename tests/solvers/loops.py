"""Plain float64 loops of the papers' algorithms, written over tensors, to compare Plans with."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from ..mixture import at


def ddim(schedule, times, model, noise):
    """Song et al. 2021, eq. 12 with eta = 0."""
    x = schedule.sigma(times[0]) * noise
    for s, t in itertools.pairwise(times):
        x0 = model(x, at(s))
        eps = (x - schedule.alpha(s) * x0) / schedule.sigma(s)
        x = schedule.alpha(t) * x0 + schedule.sigma(t) * eps
    return x


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


def unipc(schedule, times, model, noise, order, variant, lower_order_final):
    """Zhao et al. 2023, Algorithms 5 and 6 (data prediction, multistep), with R, b and B(h) as there."""
    count = len(times) - 1
    x = schedule.sigma(times[0]) * noise
    history = [(times[0], model(x, torch.tensor([times[0]])))]
    for i in range(1, count + 1):
        t = times[i]
        rank = min(order, i, count + 1 - i) if lower_order_final else min(order, i)
        s, m0 = history[-1]
        lam_s = schedule.lam(s)
        h = schedule.lam(t) - lam_s
        rks, d1s = [], []
        for k in range(2, rank + 1):
            p, m = history[-k]
            rk = (schedule.lam(p) - lam_s) / h
            rks.append(rk)
            d1s.append((m - m0) / rk)
        rks = np.array([*rks, 1.0])
        hh = -h
        phi_k = math.expm1(hh) / hh - 1
        b_h = hh if variant == "bh1" else math.expm1(hh)
        rows, b, factorial = [], [], 1
        for k in range(1, rank + 1):
            rows.append(rks ** (k - 1))
            b.append(phi_k * factorial / b_h)
            factorial *= k + 1
            phi_k = phi_k / hh - 1 / factorial
        rows, b = np.stack(rows), np.array(b)
        base = schedule.sigma(t) / schedule.sigma(s) * x - schedule.alpha(t) * math.expm1(hh) * m0
        x_pred = base
        if d1s:
            rhos = [0.5] if rank == 2 else np.linalg.solve(rows[:-1, :-1], b[:-1])
            x_pred = base - schedule.alpha(t) * b_h * sum(r * d for r, d in zip(rhos, d1s, strict=True))
        if i == count:
            return x_pred
        m_t = model(x_pred, at(t))
        rhos = [0.5] if rank == 1 else np.linalg.solve(rows, b)
        total = sum(r * d for r, d in zip(rhos[:-1], d1s, strict=True)) + rhos[-1] * (m_t - m0)
        x = base - schedule.alpha(t) * b_h * total
        history.append((t, m_t))
    return x
