"""DPM-Solver-v3 (Zheng et al. 2023, arXiv 2310.13268): an exponential integrator fitted to the model.

With y = x/alpha the ODE is dy/dlam = −(sigma/alpha)·eps. Let l, s and b be functions of lam, a value for each element
of a sample, and f = (sigma·eps − l·x)/alpha, L = ∫l, S = ∫s. Then y·e^L changes by −e^L·f alone, and of f only what s·f
+ b does not explain, g(lam) = e^(S(lam_s) − S(lam))·f − e^(S(lam_s))·∫ e^(−S)·b, has to be extrapolated (section 3.1,
eq. 10 to 13). l = 1, s = b = 0 is the data prediction of DPM-Solver++, l = 0 the noise prediction of DPM-Solver. How
the statistics of a model are found is in model_statistics.py.
"""

from __future__ import annotations

import torch

from .builder import Builder, Point, Value, extended
from .ddim import transfer
from .exponential import moments_to_weights
from .family import solver
from .model_statistics import ModelStatistics
from .settings import option

KNOTS = 1000
"""Of the quadrature where no statistics are given."""


@solver(paper="Zheng et al. 2023, arXiv 2310.13268, Algorithm 2", order="order", grid="log_snr")
def dpm_v3(b: Builder, statistics: ModelStatistics | None = None, order: int = 2, corrector: bool = True):
    """DPM-Solver-v3: multistep with coefficients for each element, from the statistics of the model.

    ``statistics`` are those of :func:`pyaccel.solvers.model_statistics`; without them it is the degenerate solver l =
    1, s = b = 0. ``corrector`` also fits the new prediction, at no further call, from order 2 on. Steps
    that begin or end outside the statistics' range of log-SNR, or at its infinite ends, are of first order.
    """
    if b.rising:
        raise ValueError("dpm_v3 runs from noise to data alone; for inversion take ddim(inverse=True)")
    option("dpm_v3", "order", order, (1, 2, 3))
    if statistics is not None and not isinstance(statistics, ModelStatistics):
        raise TypeError(f"dpm_v3: statistics must be ModelStatistics, got {type(statistics).__name__}")
    if statistics is not None and statistics.schedule not in ("", b.schedule.name):
        raise ValueError(f"dpm_v3: the statistics were measured with {statistics.schedule}, not {b.schedule.name}")
    integrals = _Integrals(b, statistics)
    x, history, correct = b.noise(), [], None
    for s, t in b.intervals():
        eps = b.predict(x, s, s.form("epsilon"))
        if s not in integrals:
            x, history, correct = transfer(b, x, eps, s, t), [], None
            continue
        f = b.combine([(s.sigma / s.alpha, eps), (-integrals.l[s] / s.alpha, x)])
        if correct is not None:
            x = correct(x, f)  # f keeps to the sample that it was computed from
        history = extended(history, s, f, order)
        if t not in integrals:
            x, correct = transfer(b, x, eps, s, t, "epsilon"), None
            continue
        rank = b.order_at(s, t, order, len(history))
        before, correct = x, None
        x = _step(b, x, history[:rank], s, t, integrals)
        if corrector and rank > 1 and t is not b.points[-1]:
            correct = _corrector(b, x, before, history[: rank - 1], s, t, integrals)
    return x


def _step(b: Builder, x: Value, history: list, s: Point, t: Point, at: _Integrals) -> Value:
    """The sample at t from that at s and the f of ``history``, s first."""
    weights, bias = at.weights(s, t, [p for p, _ in history])
    parts = [(t.alpha / s.alpha * torch.exp(at.L[s] - at.L[t]), x)]
    parts += [(w, f) for w, (_, f) in zip(weights, history, strict=True)]
    return b.combine([*parts, *([(bias, b.one)] if at.biased else [])])


def _corrector(b: Builder, predicted: Value, x: Value, history: list, s: Point, t: Point, at: _Integrals):
    """What gives the corrected sample at t from the sample and f there; the rest is added up before the call, as the
    difference to the predicted sample."""
    (p0, f0), *older = history
    points = [p0, t, *(p for p, _ in older)]
    (first, new, *rest), bias = at.weights(s, t, points)
    parts = [(t.alpha / s.alpha * torch.exp(at.L[s] - at.L[t]), x), (first, f0)]
    parts += [(w, f) for w, (_, f) in zip(rest, older, strict=True)]
    known = b.combine([*parts, (-1.0, predicted), *([(bias, b.one)] if at.biased else [])])
    return lambda sample, f: b.combine([(1.0, sample), (1.0, known), (new, f)])


class _Integrals:
    """l, L, S, B = ∫e^(−S)·b at the points of the grid, and the integrals over a step; all by the trapezoidal rule."""

    def __init__(self, b: Builder, statistics: ModelStatistics | None):
        finite = [p for p in b.points if p.finite]
        self.place: dict[Point, int] = {}
        self.biased = statistics is not None
        if statistics is None:
            if len(finite) < 2:
                return
            lams = torch.tensor([p.lam for p in finite], dtype=torch.float64)
            knots = torch.linspace(float(lams.min()), float(lams.max()), KNOTS + 1, dtype=torch.float64)
            one = torch.ones_like(knots)
            statistics = ModelStatistics(knots, one, 0 * one, 0 * one)
        low, high = float(statistics.lam[0]), float(statistics.lam[-1])
        slack = 1e-6 * (high - low)
        points = [p for p in finite if low - slack <= p.lam <= high + slack]
        own = torch.tensor([p.lam for p in points], dtype=torch.float64)
        self.lam, order = torch.sort(torch.cat([statistics.lam, own]))
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        self.place = {p: int(place[len(statistics.lam) + i]) for i, p in enumerate(points)}
        fitted = (statistics.l, statistics.s, statistics.b)
        l_, s_, b_ = (_interpolated(self.lam, statistics.lam, v) for v in fitted)
        L, S = self._cumulated(l_), self._cumulated(s_)
        self.A, self._B = L + S, self._cumulated(torch.exp(-S) * b_)
        self.l, self.L, self.S, self.B = ({p: v[i] for p, i in self.place.items()} for v in (l_, L, S, self._B))

    def __contains__(self, p: Point) -> bool:
        return p in self.place

    def _cumulated(self, y: torch.Tensor) -> torch.Tensor:
        pieces = 0.5 * _column(self.lam.diff(), y) * (y[1:] + y[:-1])
        return torch.cat([torch.zeros_like(y[:1]), pieces.cumsum(0)])

    def weights(self, s: Point, t: Point, points: list[Point]) -> tuple[list[torch.Tensor], torch.Tensor | float]:
        """The factors of f at ``points``, s first, and the bias, in the sample at t (eq. 13)."""
        i, j = self.place[s], self.place[t] + 1
        # ∫ e^(A − A_s)·y from s to t is Σ integrand·y over the knots between.
        half = 0.5 * self.lam[i:j].diff()
        trapezoid = torch.nn.functional.pad(half, (1, 0)) + torch.nn.functional.pad(half, (0, 1))
        integrand = torch.exp(self.A[i:j] - self.A[i]) * _column(trapezoid, self.A)
        powers = (self.lam[i:j] - self.lam[i]) ** torch.arange(len(points))[:, None]
        moments = list(torch.tensordot(powers, integrand, dims=1))
        own = []
        if len(points) > 1:
            # (g_i − g_0) = Σ_k (lam_i − lam_s)^k·g^(k)/k!, solved for the derivatives.
            own = moments_to_weights([p.lam - s.lam for p in points[1:]], moments[1:], powers_from=1)
        factors = [moments[0] - sum(own), *own]
        outer = -t.alpha * torch.exp(self.L[s] - self.L[t])
        weights = [outer * w * torch.exp(self.S[s] - self.S[p]) for w, p in zip(factors, points, strict=True)]
        if not self.biased:
            return weights, 0.0
        # What b adds: known along the step, and taken off g at the other points.
        known = (integrand * (self._B[i:j] - self.B[s])).sum(0)
        others = sum(w * (self.B[p] - self.B[s]) for w, p in zip(own, points[1:], strict=True))
        return weights, outer * torch.exp(self.S[s]) * (known - others)


def _column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _interpolated(lam: torch.Tensor, knots: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``values`` at the knots, linearly between them."""
    i = torch.searchsorted(knots, lam.contiguous()).clamp(1, len(knots) - 1)
    share = ((lam - knots[i - 1]) / (knots[i] - knots[i - 1])).clamp(0, 1)
    return torch.lerp(values[i - 1], values[i], _column(share, values))
