"""UniPC: a unified predictor-corrector of any order (Zhao et al. 2023, arXiv 2302.04867)."""

from __future__ import annotations

import math

from .builder import Builder, Point
from .exponential import moments_to_weights, psi
from .family import option, solver


@solver
def unipc(b: Builder, order: int = 3, variant: str = "bh2", corrector: bool = True):
    """UniPC-p in data prediction, one call a step: the prediction at the new point also corrects the step to it.

    With D_j = (m_j − m_0)/r_j over the last predictions, r_j = (lam_j − lam_s)/h (eq. 8 and 9; in the notation of
    :func:`psi`, −B(h)·rho_j are the weights here):

    predictor  x_t = (sigma_t/sigma_s)·x + alpha_t·(psi_0·m_0 + Σ_j w_j·D_j)
    corrector  the same with D = m_t − m_0 (r = 1) among the D_j

    The weights solve Σ_j w_j·r_j^(i−1) = i!·psi_i; B(h) enters only where one equation is left, which the paper
    replaces by w = B(h)/2 with B(h) = h (``bh1``) or e^h − 1 (``bh2``). The model is not called again at the
    corrected sample, and the last step has no corrector, as in the authors' code.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"unipc: order must be a whole number of at least 1, got {order!r}")
    option("unipc", "variant", variant, ("bh1", "bh2"))
    x = predicted = b.noise()
    history, pending = [], None
    for s, t in b.intervals():
        m0 = b.predict(predicted, s)
        x = predicted if pending is None else pending[0] + pending[1] * m0
        history = [(s, m0), *(pair for pair in history if not pair[0].is_start)][:order]
        rank = b.order_at(s, t, order, len(history))
        base = b.exponential_step(x, m0, s, t)
        nodes = [] if rank == 1 else [(p.lam - s.lam) / (t.lam - s.lam) for p, _ in history[1:rank]]
        differences = [(m - m0) / r for (_, m), r in zip(history[1:rank], nodes, strict=True)]

        predicted = base
        if rank > 1:
            weights = _weights(nodes, t.lam - s.lam, variant)
            predicted = base + t.alpha * _sum(differences, weights)

        pending = None
        if corrector and t is not b.points[-1] and not (s.is_start and variant == "bh1"):
            weights = _corrector_weights(nodes, s, t, variant)
            # All but the new prediction is known now; added up here, one tensor carries it to the next call.
            known = base - (t.alpha * weights[-1]) * m0
            if differences:
                known = known + t.alpha * _sum(differences, weights[:-1])
            pending = known, t.alpha * weights[-1]
    return predicted


def _sum(values, weights):
    total = weights[0] * values[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + weight * value
    return total


def _corrector_weights(nodes: list, s: Point, t: Point, variant: str) -> list:
    """Weights over the nodes and 1. From pure noise h is infinite, and those of bh2 have the limit 1/2."""
    return [0.5] if s.is_start else _weights([*nodes, 1.0], t.lam - s.lam, variant)


def _weights(nodes: list, h, variant: str) -> list:
    if len(nodes) == 1:
        return [0.5 * (h if variant == "bh1" else psi(0, h))]
    return moments_to_weights(nodes, [math.factorial(i) * psi(i, h) for i in range(1, len(nodes) + 1)])
