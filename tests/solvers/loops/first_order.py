"""First order: DDIM, DDPM, ancestral Euler, Euler–Maruyama."""

from __future__ import annotations

import itertools
import math

from ...mixture import at


def ddim(schedule, times, model, noise, eta=0.0, draw=None):
    """Song et al. 2021, eq. 12 and 16, for schedules with alpha² + sigma² = 1."""
    x = schedule.sigma(times[0]) * noise
    for s, t in itertools.pairwise(times):
        alpha_bar_s, alpha_bar_t = schedule.alpha(s) ** 2, schedule.alpha(t) ** 2
        x0 = model(x, at(s))
        eps = (x - schedule.alpha(s) * x0) / schedule.sigma(s)
        v = 0.0
        if eta:
            v = eta * math.sqrt((1 - alpha_bar_t) / (1 - alpha_bar_s)) * math.sqrt(1 - alpha_bar_s / alpha_bar_t)
        x = schedule.alpha(t) * x0 + math.sqrt(max(schedule.sigma(t) ** 2 - v**2, 0.0)) * eps
        if v:
            x = x + v * draw(schedule.ratio(s), schedule.ratio(t))
    return x


def ddpm(schedule, times, model, noise, draw, variance):
    """Ho et al. 2020, eq. 6 and 7 and Algorithm 2, with beta between any two times."""
    x = schedule.sigma(times[0]) * noise
    for i, (s, t) in enumerate(itertools.pairwise(times)):
        bar_s, bar_t = schedule.alpha(s) ** 2, schedule.alpha(t) ** 2
        alpha = bar_s / bar_t
        beta = 1 - alpha
        x0 = model(x, at(s))
        x = math.sqrt(bar_t) * beta / (1 - bar_s) * x0 + math.sqrt(alpha) * (1 - bar_t) / (1 - bar_s) * x
        if i < len(times) - 2:
            square = beta if variance == "large" else (1 - bar_t) / (1 - bar_s) * beta
            x = x + math.sqrt(square) * draw(schedule.ratio(s), schedule.ratio(t))
    return x


def euler_ancestral(schedule, times, model, noise, draw, eta, s_noise):
    """k-diffusion's ancestral Euler in y = x/alpha over rho = sigma/alpha."""
    y = schedule.ratio(times[0]) * noise
    for s, t in itertools.pairwise(times):
        rho_s, rho_t = schedule.ratio(s), schedule.ratio(t)
        d = (y - model(schedule.alpha(s) * y, at(s))) / rho_s
        up = min(rho_t, eta * math.sqrt(rho_t**2 * (rho_s**2 - rho_t**2) / rho_s**2))
        down = math.sqrt(rho_t**2 - up**2)
        y = y + d * (down - rho_s)
        if rho_t > 0:
            y = y + s_noise * up * draw(rho_s, rho_t)
    return schedule.alpha(times[-1]) * y


def euler_maruyama(beta, schedule, times, model, noise, draw, eta):
    """Song et al. 2021, eq. 6, for dx = −beta/2·x dt + √beta dw; the score is (alpha·x0 − x)/sigma²."""
    x = schedule.sigma(times[0]) * noise
    for i, (s, t) in enumerate(itertools.pairwise(times)):
        score = (schedule.alpha(s) * model(x, at(s)) - x) / schedule.sigma(s) ** 2
        drift = -0.5 * beta(s) * x - 0.5 * (1 + eta) * beta(s) * score
        x = x - (s - t) * drift
        if i < len(times) - 2 and eta:
            x = x + math.sqrt(eta * beta(s) * (s - t)) * draw(schedule.ratio(s), schedule.ratio(t))
    return x
