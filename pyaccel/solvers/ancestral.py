"""Ancestral sampling: a step towards the data that goes too far, and noise that makes up for it."""

from __future__ import annotations

from ..scalars import exp, sqrt
from .builder import Builder, Point, Value
from .family import solver
from .settings import not_negative, option


class Ancestral:
    """x_t = alpha_t·x0 + down·eps + up·ξ, up = eta·sigma_t·√(1 − e^(−2h)), down² = sigma_t² − up².

    That is the posterior q(x_t | x_s, x0) for eta = 1 (Ho et al. 2020, eq. 7, for any schedule); in the coordinates of
    EDM it is k-diffusion's ancestral step. ``gaussian`` may be handed in where the noise is shared.
    """

    def __init__(self, s: Point, t: Point, eta: float):
        self.s, self.t, self.eta = s, t, eta
        far = 1.0 if s.is_start or t.is_end else 1.0 - exp(-2.0 * (t.lam - s.lam))
        self.up = eta * t.sigma * sqrt(far)
        if eta > 1 and float(self.up) > float(t.sigma):
            self.up = t.sigma
        self.down = sqrt(t.sigma**2 - self.up**2)

    def apply(self, b: Builder, x: Value, x0: Value, gaussian: Value | None = None, s_noise: float = 1.0) -> Value:
        """The sample at t."""
        ratio = self.down / self.s.sigma
        x = ratio * x + (self.t.alpha - self.s.alpha * ratio) * x0
        if self.t.is_end or self.eta == 0:
            return x
        return x + (s_noise * self.up) * (gaussian or b.gaussian(self.s, self.t))


@solver(paper="Ho et al. 2020, arXiv 2006.11239, Algorithm 2", order="1 (weak)", stochastic=True)
def ddpm(b: Builder, variance: str = "small"):
    """DDPM's ancestral sampling: the posterior mean given x0, and noise.

    x_t = (alpha_s/alpha_t)(sigma_t/sigma_s)²·x + alpha_t·(v/sigma_s²)·x0 + std·ξ with v = sigma_s² − (alpha_s/alpha_t)²
    sigma_t², the variance of the step (beta in the paper). ``variance`` "small" has std² = v·(sigma_t/sigma_s)², the
    posterior's, "large" std² = v. No noise is added at the last step.
    """
    option("ddpm", "variance", variance, ("small", "large"))
    x = b.noise()
    for s, t in b.intervals():
        m = b.predict(x, s)
        last = t is b.points[-1]
        if variance == "small" and not last:
            x = Ancestral(s, t, 1.0).apply(b, x, m)
            continue
        step = s.alpha / t.alpha
        v = s.sigma**2 - (step * t.sigma) ** 2
        x = (step * (t.sigma / s.sigma) ** 2) * x + (t.alpha * v / s.sigma**2) * m
        if not last:
            x = x + sqrt(v) * b.gaussian(s, t)
    return x


@solver(paper="Karras et al. 2022 and k-diffusion, sample_euler_ancestral", order="1 (weak)", stochastic=True)
def euler_ancestral(b: Builder, eta: float = 1.0, s_noise: float = 1.0):
    """Euler to a noise level below the next one, and fresh noise back up to it.

    ``eta`` 0 is :func:`euler`, 1 the posterior's variance; ``s_noise`` scales the noise that is added.
    """
    not_negative("euler_ancestral", eta=eta, s_noise=s_noise)
    x = b.noise()
    for s, t in b.intervals():
        x = Ancestral(s, t, eta).apply(b, x, b.predict(x, s), s_noise=s_noise)
    return x
