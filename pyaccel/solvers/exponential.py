"""Exponential integrators in half log-SNR: how a step weighs the sample, the prediction and its changes, and noise.

Between s and t, with h = lam_t − lam_s, the reverse SDE with eta times the diffusion of the forward one is solved
exactly but for the prediction, which is extrapolated (DPM-Solver, arXiv 2206.00927; SA-Solver, arXiv 2309.05019, eq. 8
with tau² = eta):

    over x0   x_t = (sigma_t/sigma_s) e^(−eta·h)·x + Σ_k alpha_t·psi_k(H)·D_k + sigma_t √(1 − e^(−2·eta·h))·ξ,
              H = (1 + eta)·h
    over eps  x_t = (alpha_t/alpha_s)·x + Σ_k (1 + eta)·sigma_t·psi_k(−h)·D_k + sigma_t √(eta·(e^(2h) − 1))·ξ

where D_k = h^k·(k-th derivative of the prediction by lam at s), so D_0 is the prediction itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..duals import Dual, solved
from ..scalars import Scalar, exp, expm1, sqrt


def psi(k: int, h: Scalar) -> Scalar:
    """psi_k(h) = ∫_0^h e^(u−h) (u/h)^k / k! du: what a prediction that grows like tau^k/k! over a step contributes.

    psi_0 = 1 − e^(−h) and psi_k = 1/k! − psi_(k−1)/h; in the notation of DPM-Solver++ and UniPC these are
    −phi_1, phi_2, −phi_3, ... times powers of h. The recursion cancels for small h, where the series
    h·Σ_j (−h)^j / (k+j+1)! is used instead.
    """
    if isinstance(h, Dual):
        return h.chain(psi(k, h.value), _psi_slope(k, h.value))
    if k == 0:
        return -expm1(-h)
    if abs(float(h.detach() if isinstance(h, torch.Tensor) else h)) > 1.0:
        return 1 / math.factorial(k) - psi(k - 1, h) / h
    total = 0.0
    for coefficient in _SERIES[k] if k < len(_SERIES) else _series(k):
        total = total * h + coefficient
    return h * total


def _psi_slope(k: int, h: float) -> float:
    """The derivative of psi_k at h."""
    if k == 0:
        return exp(-h)
    if abs(h) > 1.0:
        return (psi(k - 1, h) / h - _psi_slope(k - 1, h)) / h
    total, series = 0.0, _SERIES[k] if k < len(_SERIES) else _series(k)
    for power, coefficient in zip(range(len(series), 0, -1), series, strict=True):
        total = total * h + power * coefficient
    return total


def _series(k: int) -> list[float]:
    return [(-1) ** j / math.factorial(k + j + 1) for j in range(20, -1, -1)]


_SERIES = [_series(k) for k in range(6)]


class Exponential:
    """The step from the point s to the point t: ``scale``, ``weight(k)`` of D_k, ``noise``; see the module."""

    __slots__ = ("_first", "gain", "h", "noise", "scale")

    def __init__(self, s, t, form: str = "sample", eta: Scalar = 0.0):
        if form not in ("sample", "epsilon"):
            raise ValueError(f"a step is made over 'sample' or 'epsilon', not over {form!r}")
        stochastic = not isinstance(eta, float) or eta != 0.0
        finite = s.finite and t.finite
        h = t.lam - s.lam if finite else None
        if form == "sample":
            self.gain = t.alpha
            if finite:
                self.h = h * (1.0 + eta) if stochastic else h
                self.scale = t.sigma / s.sigma * (1.0 + expm1(-eta * h) if stochastic else 1.0)
                self.noise = t.sigma * sqrt(-expm1(-2.0 * eta * h)) if stochastic else None
                self._first = None
            else:  # h is infinite: what noise there was is gone if any is added
                self.h = None
                self.scale = 0.0 if stochastic else t.sigma / s.sigma
                self.noise = t.sigma if stochastic else None
                self._first = t.alpha - s.alpha * self.scale
        else:
            self.gain = (1.0 + eta) * t.sigma
            self.scale = t.alpha / s.alpha
            self.h = -h if finite else None
            self.noise = None
            if stochastic:
                # √(e^(2h) − 1) with the limit at sigma_t = 0 taken in.
                self.noise = sqrt(eta * ((s.sigma * self.scale) ** 2 - t.sigma**2))
            self._first = None if finite else (1.0 + eta) * (t.sigma - s.sigma * self.scale)

    def weight(self, k: int) -> Scalar:
        """The factor of D_k; at infinite h only that of D_0 is known."""
        if self._first is not None:
            if k:
                raise ValueError("a step with infinite log-SNR at one end is of first order")
            return self._first
        return self.gain * psi(k, self.h)

    def weights(self, nodes: Sequence[Scalar]) -> list[Scalar]:
        """The factors of the predictions at s (first) and at lam_s + r·h for r in ``nodes``, exact for polynomials.

        Σ_j w_j·r_j^i = i!·weight(i): with all nodes given it is the exponential Adams method of that order.
        """
        moments = [math.factorial(i) * self.weight(i) for i in range(len(nodes) + 1)]
        if not nodes:
            return moments
        rest = moments_to_weights(nodes, moments[1:], powers_from=1)
        return [moments[0] - sum(rest[1:], rest[0]), *rest]


def moments_to_weights(nodes: Sequence[Scalar], moments: Sequence[Scalar], powers_from: int = 0) -> list[Scalar]:
    """w with Σ_j w_j·nodes_j^i = moments for i = ``powers_from``, ...: a Vandermonde system of the size of the
    order.
    """
    count = len(moments)
    if count == 1:
        return [moments[0] / nodes[0] ** powers_from]
    if count == 2:
        (a, b), (m0, m1) = nodes, moments
        m0, m1 = m0 / (b - a), m1 / (b - a)
        first, second = b * m0 - m1, m1 - a * m0
        return [first / a**powers_from, second / b**powers_from]
    if any(isinstance(x, Dual) for x in (*nodes, *moments)):
        return solved([[r ** (i + powers_from) for r in nodes] for i in range(count)], list(moments))
    if any(isinstance(x, torch.Tensor) for x in (*nodes, *moments)):
        r = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in nodes])
        m = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in moments])
        powers = torch.stack([r ** (i + powers_from) for i in range(count)])
        return list(torch.linalg.solve(powers, m).unbind())
    r = np.asarray(nodes, dtype=np.float64)
    powers = np.stack([r ** (i + powers_from) for i in range(count)])
    return np.linalg.solve(powers, np.asarray(moments, np.float64)).tolist()
