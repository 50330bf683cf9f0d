"""First order: DDIM and Euler."""

from __future__ import annotations

from .builder import Builder
from .family import solver


@solver
def ddim(b: Builder):
    """DDIM with eta = 0 (Song et al. 2021, eq. 12), which is DPM-Solver-1: order 1, one call a step.

    x_t = (sigma_t/sigma_s)·x + (alpha_t − alpha_s·sigma_t/sigma_s)·x0.
    """
    x = b.noise()
    for s, t in b.intervals():
        x = b.exponential_step(x, b.predict(x, s), s, t)
    return x


@solver
def euler(b: Builder):
    """Euler's method on the probability-flow ODE in the coordinates of EDM, x/alpha over sigma/alpha: order 1.

    d(x/alpha)/d(sigma/alpha) = eps (Karras et al. 2022, eq. 3 and 4, with the schedule's scaling), so
    x_t = (alpha_t/alpha_s)·x + (sigma_t − sigma_s·alpha_t/alpha_s)·eps; for flow matching x + (t − s)·u. It is written
    over x0, which stays finite at alpha_s = 0, and gives the same samples as :func:`ddim`.
    """
    x = b.noise()
    for s, t in b.intervals():
        m = b.predict(x, s)
        ratio = t.sigma / s.sigma
        x = ratio * x + (t.alpha - s.alpha * ratio) * m
    return x
