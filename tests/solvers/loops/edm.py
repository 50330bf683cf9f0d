"""EDM's stochastic sampler and Restart, in the papers' coordinates: y = x/alpha over rho = sigma/alpha."""

import itertools
import math


def _slope(y, x0, rho):
    return (y - x0) / rho


def _heun(denoise, y, rho, following):
    d = _slope(y, denoise(y, rho), rho)
    ahead = y + (following - rho) * d
    if following == 0:
        return ahead
    return y + (following - rho) * 0.5 * (d + _slope(ahead, denoise(ahead, following), following))


def edm_stochastic(denoise, y, rhos, noise, churn, s_min, s_max, s_noise):
    """Karras et al. 2022, Algorithm 2; ``noise`` yields one draw for each step that adds noise."""
    for rho, following in itertools.pairwise(rhos):
        gamma = min(churn / (len(rhos) - 1), math.sqrt(2) - 1) if s_min <= rho <= s_max else 0.0
        hat = rho + gamma * rho
        if gamma > 0:
            y = y + math.sqrt(hat**2 - rho**2) * s_noise * next(noise)
        y = _heun(denoise, y, hat, following)
    return y


def restart(denoise, y, rhos, noise, restarts, s_noise, power=7.0):
    """Xu et al. 2023, Algorithm 1, with Karras' spacing inside a restart."""
    for i, (rho, following) in enumerate(itertools.pairwise(rhos)):
        y = _heun(denoise, y, rho, following)
        for count, times, low, high in restarts:
            if i + 1 != min(range(1, len(rhos) - 1), key=lambda j: abs(rhos[j] - low)):
                continue
            a, b = high ** (1 / power), following ** (1 / power)
            way = [(a + j / (count - 1) * (b - a)) ** power for j in range(count)]
            for _ in range(times):
                y = y + math.sqrt(high**2 - following**2) * s_noise * next(noise)
                for u, v in itertools.pairwise(way):
                    y = _heun(denoise, y, u, v)
    return y
