"""First order: DDIM and Euler."""

from __future__ import annotations

from .ancestral import Ancestral, check_eta
from .builder import Builder, Point, Value
from .family import solver


@solver(paper="Song et al. 2021, arXiv 2010.02502, eq. 12", order="1")
def euler(b: Builder):
    """Euler's method on the probability-flow ODE in the coordinates of EDM, x/alpha over sigma/alpha.

    d(x/alpha)/d(sigma/alpha) = eps (Karras et al. 2022, eq. 3 and 4, with the schedule's scaling), so
    x_t = (alpha_t/alpha_s)·x + (sigma_t − sigma_s·alpha_t/alpha_s)·eps; for flow matching x + (t − s)·u. It is written
    over x0, which stays finite at alpha_s = 0, and gives the same samples as :func:`ddim`.
    """
    x = b.noise()
    for s, t in b.intervals():
        x = transfer(b, x, b.predict(x, s, x0_or_noise(s)), s, t)
    return x


@solver(paper="Song et al. 2021, arXiv 2010.02502, eq. 12 and 16", order="1", stochastic=None)
def ddim(b: Builder, eta: float = 0.0):
    """DDIM: x_t = alpha_t·x0 + √(sigma_t² − v²)·eps + v·ξ with v = eta·sigma_t·√(1 − e^(−2h)).

    With ``eta`` 0 it is DPM-Solver-1, deterministic; with 1 it is DDPM with the smaller of its variances, and
    stochastic in between. The standard deviation v is eq. 16 of the paper, written so that it holds for any schedule.
    """
    check_eta("ddim", eta)
    x = b.noise()
    for s, t in b.intervals():
        if eta == 0:
            x = transfer(b, x, b.predict(x, s, x0_or_noise(s)), s, t)
        else:
            x = Ancestral(s, t, eta).apply(b, x, b.predict(x, s))
    return x


def x0_or_noise(s: Point) -> str:
    """How a first-order step reads the prediction at s: as x0, but as noise where there is none (in inversion)."""
    return "epsilon" if s.is_end else "sample"


def transfer(b: Builder, x: Value, m: Value, s: Point, t: Point, form: str | None = None) -> Value:
    """The sample at t on the straight line in x/alpha over sigma/alpha that leaves x at s with the prediction m.

    alpha_t·x0 + sigma_t·eps, with whichever of the two is not known eliminated by x.
    """
    if (form or x0_or_noise(s)) == "sample":
        ratio = t.sigma / s.sigma
        return ratio * x + (t.alpha - s.alpha * ratio) * m
    ratio = t.alpha / s.alpha
    return ratio * x + (t.sigma - s.sigma * ratio) * m
