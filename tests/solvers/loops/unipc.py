"""UniPC as its authors wrote it down, and UniC on the samples of another solver."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ...mixture import at


def _matrices(rks, hh, variant):
    """R, b and B(h) of Zhao et al. 2023, Algorithm 5, for the places ``rks``."""
    b_h = hh if variant == "bh1" else math.expm1(hh)
    phi_k = math.expm1(hh) / hh - 1
    rows, b, factorial = [], [], 1
    for k in range(1, len(rks) + 1):
        rows.append(np.array(rks) ** (k - 1))
        b.append(phi_k * factorial / b_h)
        factorial *= k + 1
        phi_k = phi_k / hh - 1 / factorial
    return np.stack(rows), np.array(b), b_h


def _prediction(schedule, model, x, t, form):
    x0 = model(x, at(t))
    return x0 if form == "sample" else (x - schedule.alpha(t) * x0) / schedule.sigma(t)


def _update(schedule, x, s, t, m0, older, variant, form, m_t=None):
    """UniP with the predictions ``older`` [(time, m), ...], or UniC when ``m_t`` is given."""
    lam_s = schedule.lam(s)
    h = schedule.lam(t) - lam_s
    if form == "sample":
        hh, gain = -h, schedule.alpha(t)
        base = schedule.sigma(t) / schedule.sigma(s) * x - gain * math.expm1(hh) * m0
    else:
        hh, gain = h, schedule.sigma(t)
        base = schedule.alpha(t) / schedule.alpha(s) * x - gain * math.expm1(hh) * m0
    rks = [(schedule.lam(p) - lam_s) / h for p, _ in older]
    d1s = [(m - m0) / r for (_, m), r in zip(older, rks, strict=True)]
    if m_t is not None:
        rks, d1s = [*rks, 1.0], [*d1s, m_t - m0]
    if not rks:
        return base
    rows, b, b_h = _matrices(rks, hh, variant)
    rhos = [0.5] if len(rks) == 1 else np.linalg.solve(rows, b)
    return base - gain * b_h * sum(r * d for r, d in zip(rhos, d1s, strict=True))


def unipc(schedule, times, model, noise, order, variant, lower_order_final, form="sample", corrector=True):
    """Zhao et al. 2023, Algorithms 5 to 8 (multistep), with no corrector after the last step."""
    count = len(times) - 1
    x = schedule.sigma(times[0]) * noise
    history = [(times[0], _prediction(schedule, model, x, times[0], form))]
    for i in range(1, count + 1):
        t = times[i]
        rank = min(order, i, count + 1 - i) if lower_order_final else min(order, i)
        (s, m0), older = history[0], history[1:rank]
        x_pred = _update(schedule, x, s, t, m0, older, variant, form)
        if i == count:
            return x_pred
        m_t = _prediction(schedule, model, x_pred, t, form)
        x = _update(schedule, x, s, t, m0, older, variant, form, m_t) if corrector else x_pred
        history = [(t, m_t), *history]


def unip_singlestep(schedule, times, model, noise, order, variant, form):
    """UniP-p with its points at i/p of the step in log-SNR, each reached by UniP from those before (appendix C)."""
    x = schedule.sigma(times[0]) * noise
    for s, t in itertools.pairwise(times):
        lam_s, lam_t = schedule.lam(s), schedule.lam(t)
        m0, inner = _prediction(schedule, model, x, s, form), []
        for i in range(1, order):
            u = schedule.time_of_lam(lam_s + (lam_t - lam_s) * i / order)
            x_u = _update(schedule, x, s, u, m0, inner, variant, form)
            inner = [*inner, (u, _prediction(schedule, model, x_u, u, form))]
        x = _update(schedule, x, s, t, m0, inner, variant, form)
    return x


def unic(schedule, times, model, noise, step, order, variant, lower_order_final):
    """UniC-p on ``step(x, s, t, history) -> x_t``, history being [(time, x0), ...] with the newest first."""
    count = len(times) - 1
    x = schedule.sigma(times[0]) * noise
    history = [(times[0], model(x, at(times[0])))]
    for i in range(1, count + 1):
        s, t = times[i - 1], times[i]
        x_t = step(x, s, t, history)
        if i == count:
            return x_t
        m_t = model(x_t, at(t))
        rank = min(order, i, count + 1 - i) if lower_order_final else min(order, i)
        x = _update(schedule, x, s, t, history[0][1], history[1:rank], variant, "sample", m_t)
        history = [(t, m_t), *history]
