"""The discrete schedule of DDPM and of Stable Diffusion, made continuous by interpolation."""

from __future__ import annotations

import numpy as np

from ..scalars import PiecewiseLinear, Scalar, divide, exp, expm1, interval, log, maximum, minimum, sqrt, take
from .betas import Betas, check_betas
from .schedule import Schedule
from .variance_preserving import variance_preserving


def vp_discrete(betas: Betas) -> Schedule:
    """The discrete schedule of DDPM: alpha_n² = Π_{i≤n} (1 − beta_i), joined by straight lines in log alpha.

    ``betas`` is [N] with values in (0, 1), such as :func:`linear_betas` makes. Time t = (n + 1)/N is the n-th of them,
    t = 0 is the data, and the network is told n = t·N − 1, not below 0 (the convention of DPM-Solver, arXiv
    2206.00927, appendix D.1). At the knots, where the drift f = d log(alpha)/dt jumps, it is taken from the side of
    larger t (at t = 1 from that of smaller t).

    The last beta may be 1, as :func:`rescale_zero_terminal_snr` has it. Then alpha(1) = 0 and lam(1) = −∞. Log alpha
    cannot fall to that in a straight line, so over the last interval alpha itself does, alpha(t) =
    alpha(1 − 1/N)·(1 − t)·N; lam is monotone and finite up to t = 1, and ``t_max`` is 1 − 1/N, the last training step
    with a finite log-SNR.
    """
    b = check_betas("vp_discrete", betas)
    count = len(b)
    ends_in_noise = bool(b[-1] == 1)
    if ends_in_noise and count < 3:
        raise ValueError(f"vp_discrete: betas that end in 1 must be at least three, got {b.tolist()}")
    t_max = 1.0 - 1.0 / count if ends_in_noise else 1.0
    times = np.arange(count + 1) / count
    log_alphas = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-(b[:-1] if ends_in_noise else b)))])
    line = _Line(times[: len(log_alphas)], log_alphas)
    curve = _LineToZero(line) if ends_in_noise else line
    return variance_preserving(
        "vp_discrete",
        {"betas": b.tolist()},
        1.0 / count,
        t_max,
        alpha=curve.alpha,
        sigma=curve.sigma,
        log_alpha=curve.log_alpha,
        drift=curve.drift,
        time_of_log_alpha=curve.time_of_log_alpha,
        model_time=lambda t: maximum(t * count - 1, 0.0),
    )


class _Line:
    """log alpha through the knots by straight lines, with its derivative and inverse."""

    def __init__(self, times: np.ndarray, log_alphas: np.ndarray):
        self.times, self.log_alphas = times, log_alphas
        self.log_alpha = PiecewiseLinear(times, log_alphas)
        self.time_of_log_alpha = PiecewiseLinear(log_alphas[::-1].copy(), times[::-1].copy())

    def alpha(self, t: Scalar) -> Scalar:
        return exp(self.log_alpha(t))

    def sigma(self, t: Scalar) -> Scalar:
        return sqrt(-expm1(2 * self.log_alpha(t)))

    def drift(self, t: Scalar) -> Scalar:
        slope = take(self.log_alpha.slopes, interval(t, self.times, right=True))
        return float(slope) if isinstance(t, float) else slope


class _LineToZero:
    """The same up to the last knot, and from there alpha·u, with u falling linearly from 1 to 0 at t = 1.

    Each formula is the line's, held at the last knot, and a term in u, held at 1 before it: nothing is chosen between
    two branches, of which the other would give its gradient NaN.
    """

    def __init__(self, line: _Line):
        self.line, self.last, self.last_log_alpha = line, float(line.times[-1]), float(line.log_alphas[-1])

    def u(self, t: Scalar) -> Scalar:
        return (1 - maximum(t, self.last)) / (1 - self.last)

    def held(self, t: Scalar) -> Scalar:
        return self.line.log_alpha(minimum(t, self.last))

    def log_alpha(self, t: Scalar) -> Scalar:
        return self.held(t) + log(self.u(t))

    def alpha(self, t: Scalar) -> Scalar:
        return exp(self.held(t)) * self.u(t)

    def sigma(self, t: Scalar) -> Scalar:
        # 1 − alpha²·u² = (1 − alpha²) + alpha²·(1 − u)·(1 + u)
        log_alpha, u = self.held(t), self.u(t)
        return sqrt(-expm1(2 * log_alpha) + exp(2 * log_alpha) * (1 - u) * (1 + u))

    def drift(self, t: Scalar) -> Scalar:
        before = (t < self.last) * 1.0
        return before * self.line.drift(t) + (1 - before) * divide(-1.0, 1 - t)

    def time_of_log_alpha(self, a: Scalar) -> Scalar:
        u = exp(minimum(a, self.last_log_alpha) - self.last_log_alpha)
        return self.line.time_of_log_alpha(maximum(a, self.last_log_alpha)) + (1 - self.last) * (1 - u)
