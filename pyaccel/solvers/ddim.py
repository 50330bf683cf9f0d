"""First order: DDIM and Euler."""

from __future__ import annotations

from .ancestral import Ancestral
from .builder import Builder, Point, Value
from .family import solver
from .settings import not_negative, whole


@solver(paper="Karras et al. 2022, arXiv 2206.00364, eq. 3 and 4", order="1")
def euler(b: Builder):
    """Euler's method on the probability-flow ODE in the coordinates of EDM, x/alpha over sigma/alpha.

    d(x/alpha)/d(sigma/alpha) = eps (Karras et al. 2022, eq. 3 and 4, with the schedule's scaling), so
    x_t = (alpha_t/alpha_s)·x + (sigma_t − sigma_s·alpha_t/alpha_s)·eps; for flow matching x + (t − s)·u. It is written
    over x0, which stays finite at alpha_s = 0, and gives the same samples as :func:`ddim`.
    """
    x = b.noise()
    for s, t in b.intervals():
        x = transfer(b, x, b.predict(x, s, s.form("sample")), s, t)
    return x


@solver(paper="Song et al. 2021, arXiv 2010.02502, eq. 12 and 16", order="1", stochastic=None)
def ddim(b: Builder, eta: float = 0.0, iterations: int = 0):
    """DDIM: x_t = alpha_t·x0 + √(sigma_t² − v²)·eps + v·ξ with v = eta·sigma_t·√(1 − e^(−2h)).

    With ``eta`` 0 it is DPM-Solver-1, deterministic; with 1 it is DDPM with the smaller of its variances, and
    stochastic in between. The standard deviation v is eq. 16 of the paper, written so that it holds for any schedule.

    With ``inverse=True`` it is DDIM inversion, from data to noise, which takes the prediction at the wrong end of each
    step; each of ``iterations`` more calls a step solves for the sample from which DDIM would have come exactly here
    (fixed-point iteration), so that sampling back gives the data again.
    """
    not_negative("ddim", eta=eta)
    iterations = whole("ddim", "iterations", iterations)
    if iterations and not b.rising:
        raise ValueError("ddim: iterations are for inversion (inverse=True, or times that rise)")
    if eta and b.rising:
        raise ValueError(
            "ddim: the times rise from data to noise, and no noise can be added on that way: eta must be 0"
        )
    x = b.noise()
    for s, t in b.intervals():
        if eta != 0:
            x = Ancestral(s, t, eta).apply(b, x, b.predict(x, s))
            continue
        start, x = x, transfer(b, x, b.predict(x, s, s.form("sample")), s, t)
        for _ in range(iterations):
            x = _origin(b, start, b.predict(x, t, t.form("epsilon")), s, t)
    return x


def _origin(b: Builder, x: Value, m: Value, s: Point, t: Point) -> Value:
    """The sample at t from which :func:`transfer` with the prediction m, made at t, leads to x at s."""
    if t.form("epsilon") == "sample":
        ratio = s.sigma / t.sigma
        return (1 / ratio) * x - ((s.alpha - t.alpha * ratio) / ratio) * m
    ratio = s.alpha / t.alpha
    return (1 / ratio) * x - ((s.sigma - t.sigma * ratio) / ratio) * m


def transfer(b: Builder, x: Value, m: Value, s: Point, t: Point, form: str | None = None) -> Value:
    """The sample at t on the straight line in x/alpha over sigma/alpha that leaves x at s with the prediction m.

    alpha_t·x0 + sigma_t·eps, with whichever of the two is not known eliminated by x.
    """
    if (form or s.form("sample")) == "sample":
        ratio = t.sigma / s.sigma
        return ratio * x + (t.alpha - s.alpha * ratio) * m
    ratio = t.alpha / s.alpha
    return ratio * x + (t.sigma - s.sigma * ratio) * m
