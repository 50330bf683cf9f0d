"""The reverse SDE itself, by the method of Euler and Maruyama."""

from __future__ import annotations

import math

from .builder import Builder
from .family import solver
from .settings import not_negative


@solver(paper="Song et al. 2021, arXiv 2011.13456, eq. 6", order="1 (weak), 1/2 (strong)", stochastic=True, finite=True)
def euler_maruyama(b: Builder, eta: float = 1.0):
    """Euler–Maruyama on dx = [f·x − (1 + eta)/2·g²·score] dt + √eta·g dw, backwards in time, score = −eps/sigma.

    ``eta`` 1 is the reverse SDE, 0 the probability-flow ODE. f and g are the schedule's drift and diffusion at the
    step's first point. No noise is added at the last step. It wants hundreds of steps: what it costs is what all the
    other solvers save.
    """
    not_negative("euler_maruyama", eta=eta)
    x = b.noise()
    for s, t in b.intervals():
        m = b.predict(x, s, "epsilon")
        f, g = b.schedule.drift(s.t), b.schedule.diffusion(s.t)
        dt = s.t - t.t
        x = (1.0 - f * dt) * x - ((1.0 + eta) / 2.0 * g * g * dt / s.sigma) * m
        if t is not b.points[-1] and eta > 0:
            x = x + (g * math.sqrt(eta * dt)) * b.gaussian(s, t)
    return x
