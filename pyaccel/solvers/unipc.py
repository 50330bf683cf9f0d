"""UniPC: a unified predictor-corrector of any order (Zhao et al. 2023, arXiv 2302.04867), and UniC on any solver."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .builder import Builder, Point, Value, extended
from .exponential import Exponential, moments_to_weights, psi
from .family import solver, solver_function
from .settings import check_options, option, whole


@solver(
    paper="Zhao et al. 2023, arXiv 2302.04867, Algorithms 5-8",
    order="order + 1; predictor alone: order",
    calls="1; singlestep: order",
)
def unipc(
    b: Builder,
    order: int = 3,
    variant: str = "bh2",
    corrector: bool = True,
    form: str = "sample",
    method: str = "multistep",
):
    """UniPC-p: the prediction at the new point also corrects the step to it; one call a step.

    With D_j = (m_j − m_0)/r_j over the last predictions, r_j = (lam_j − lam_s)/h (eq. 8 and 9; in the notation of
    :func:`psi`, −B(h)·rho_j are the weights here):

    predictor  x_t = (sigma_t/sigma_s)·x + alpha_t·(psi_0·m_0 + Σ_j w_j·D_j)
    corrector  the same with D = m_t − m_0 (r = 1) among the D_j

    The weights solve Σ_j w_j·r_j^(i−1) = i!·psi_i; B(h) enters only where one equation is left, which the paper
    replaces by w = B(h)/2 with B(h) = h (``bh1``) or e^h − 1 (``bh2``). The model is not called again at the
    corrected sample, and the last step has no corrector, as in the authors' code. ``form`` "epsilon" is the same over
    predictions of the noise. ``corrector=False`` is the predictor UniP alone. ``method`` "singlestep" takes its D_j
    at ``order`` − 1 points inside the step instead, each a model call (Appendix C), up to order 3.
    """
    _check("unipc", order, variant)
    option("unipc", "form", form, ("sample", "epsilon"))
    option("unipc", "method", method, ("multistep", "singlestep"))
    if method == "singlestep":
        option("unipc", "order of the singlestep method", order, (1, 2, 3))
    if corrector:
        b.corrector = UniC(order, variant)
    x, history = b.noise(), []
    for s, t in b.intervals():
        m = b.predict(x, s, s.form(form))
        if method == "singlestep":
            x = _inner_step(b, x, m, s, t, order, variant, form)
            continue
        history = extended(history, s, m, order)
        rank = b.order_at(s, t, order, len(history))
        x = _unip(x, history[:rank], s, t, variant, s.form(form))
    return x


@solver(paper="Zhao et al. 2023, arXiv 2302.04867, eq. 9", order="that of the solver + 1", calls="as the solver")
def unic(
    b: Builder,
    solver: str = "dpmpp",
    order: int = 2,
    variant: str = "bh2",
    solver_options: Mapping[str, Any] = MappingProxyType({}),
):
    """UniC-p, the corrector of UniPC, on top of any other solver of the ODE.

    The prediction at the begin of a step also corrects the step that led there, at no further call; calls inside of
    steps are left as they are. ``order`` and ``variant`` are UniC's, ``solver_options`` those of the solver.
    """
    _check("unic", order, variant)
    function, options = solver_function(solver), dict(solver_options)
    if solver in ("unipc", "sa_solver", "dpm_v3"):
        raise ValueError(f"unic: {solver} has a corrector of its own")
    check_options(solver, function, options)
    b.corrector = UniC(order, variant)
    x = function(b, **options)
    if b.draws:
        raise ValueError(f"unic: {solver} is stochastic here; UniC corrects solvers of the ODE")
    return x


class UniC:
    """The corrector: remembers predictions and, at the call where a step begins, corrects the step that led there.

    It works over whatever the solver reads its predictions as, x0 or the noise.
    """

    def __init__(self, order: int, variant: str):
        self.order, self.variant = order, variant
        self._x: Value | None = None
        self._form = ""
        self._history: list[tuple[Point, Value]] = []
        self._gain = 0.0

    def before_call(self, b: Builder, x: Value, t: Point, form: str) -> Value | None:
        """All that the corrected sample at t adds to x but the prediction there: one tensor carries it along.

        The difference to x, not the sum: whoever replaces x before the call replaces the corrected sample too.
        """
        if form not in ("sample", "epsilon"):
            raise ValueError(f"unic corrects steps over x0 or the noise, and this solver makes them over {form!r}")
        if self._x is None or form != self._form:
            return None
        s, m0 = self._history[0]
        if not s.finite and self.variant == "bh1":
            return None
        usable = [pair for pair in self._history[1:] if pair[0].finite]
        rank = b.order_at(s, t, self.order, 1 + len(usable))
        older = usable[: rank - 1]
        step = Exponential(s, t, form)
        # From pure noise h is infinite, and the weights of bh2 have the limit 1/2.
        nodes = _nodes(older, s, t)
        weights = [0.5 * step.weight(0)] if not s.finite else _weights([*nodes, 1.0], step, self.variant)
        self._gain = weights[-1]
        parts = [(step.scale, self._x), (step.weight(0) - self._gain, m0), (-1.0, x)]
        for (_, m), r, w in zip(older, nodes, weights, strict=False):
            parts += [(w / r, m), (-w / r, m0)]
        return b.combine(parts)

    def after_call(self, b: Builder, x: Value, t: Point, m: Value, form: str, known: Value | None) -> Value:
        """The sample at t, corrected where it can be; m is the prediction at t."""
        if form != self._form:
            self._history, self._form = [], form
        corrected = x if known is None else b.combine([(1.0, x), (1.0, known), (self._gain, m)])
        self._x, self._history = corrected, [(t, m), *self._history][: self.order]
        return corrected


def _check(name: str, order: int, variant: str) -> None:
    whole(name, "order", order, least=1)
    option(name, "variant", variant, ("bh1", "bh2"))


def _unip(x: Value, history: list, s: Point, t: Point, variant: str, form: str) -> Value:
    """UniP from s to t with the predictions of ``history``, that of s first."""
    step, (m0, older) = Exponential(s, t, form), (history[0][1], history[1:])
    parts = [(step.scale, x), (step.weight(0), m0)]
    nodes = _nodes(older, s, t)
    for (_, m), r, w in zip(older, nodes, _weights(nodes, step, variant), strict=True):
        parts += [(w / r, m), (-w / r, m0)]
    return x.builder.combine(parts)


def _inner_step(b: Builder, x: Value, m0: Value, s: Point, t: Point, order: int, variant: str, form: str) -> Value:
    """UniP from s to t with predictions at equal parts of the step in log-SNR."""
    form, history = s.form(form), [(s, m0)]
    for i in range(1, order if s.finite and t.finite else 1):
        u = b.point(lam=s.lam + (t.lam - s.lam) * i / order)
        history.append((u, b.predict(_unip(x, history, s, u, variant, form), u, form)))
    return _unip(x, history, s, t, variant, form)


def _nodes(older: list, s: Point, t: Point) -> list:
    return [(p.lam - s.lam) / (t.lam - s.lam) for p, _ in older]


def _weights(nodes: list, step: Exponential, variant: str) -> list:
    """Of the D_j at ``nodes``, times the step's gain."""
    if not nodes:
        return []
    if len(nodes) == 1:
        return [0.5 * step.gain * (step.h if variant == "bh1" else psi(0, step.h))]
    moments = [math.factorial(i) * step.gain * psi(i, step.h) for i in range(1, len(nodes) + 1)]
    return moments_to_weights(nodes, moments)
