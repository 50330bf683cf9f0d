"""DPM-Solver and DPM-Solver++, multistep and singlestep, as ODE and as SDE.

Lu et al. 2022, arXiv 2206.00927 (DPM-Solver, over the noise) and arXiv 2211.01095 (DPM-Solver++, over x0; section 5 and
appendix A for the SDE). One arithmetic serves all: :class:`Exponential` knows whether a step is made over x0 or over
the noise, and how much noise is added.
"""

from __future__ import annotations

import itertools
import math

from .ancestral import Ancestral
from .builder import Builder, Point, Value, extended
from .ddim import transfer
from .exponential import Exponential
from .family import solver
from .settings import not_negative, option


@solver(paper="Lu et al. 2022, arXiv 2211.01095, Algorithms 1 and 2", order="order; 3 as published: 2",
        calls="1; singlestep: order")  # fmt: skip
def dpmpp(b: Builder, order: int = 2, variant: str = "published", method: str = "multistep", correction: str = ""):
    """DPM-Solver++(1M, 2M, 3M) and (2S, 3S): exponential integrators over the prediction of x0.

    ``order`` 1 is DDIM, 2 is Algorithm 2 of the paper. Order 3 as published (the authors' code) gives the second
    difference half of its weight, which makes its order of convergence 2; ``variant="exact"`` gives it all.
    ``method`` "singlestep" (Algorithm 1) calls the model ``order`` times in each step and keeps no history.
    ``correction`` of second order: "midpoint" (the default, psi_0/2 of the difference) or "heun" (psi_1 of it).
    """
    return _dpm(b, "dpmpp", order, variant, method, correction, "sample", 0.0)


@solver(
    paper="Lu et al. 2022, arXiv 2206.00927, Algorithms 1 and 2",
    order="order; multistep 3 as published: 2",
    calls="order; multistep: 1",
)
def dpm(b: Builder, order: int = 3, variant: str = "published", method: str = "singlestep", correction: str = ""):
    """DPM-Solver-1, 2, 3: exponential integrators over the prediction of the noise, ``order`` calls a step.

    ``method`` "multistep" uses earlier predictions instead of inner ones, one call a step. ``correction`` as of
    :func:`dpmpp`.
    """
    return _dpm(b, "dpm", order, variant, method, correction, "epsilon", 0.0)


@solver(paper="Lu et al. 2022, arXiv 2211.01095, section 5; k-diffusion", order="order (weak: 1)",
        calls="1; singlestep: 2", stochastic=True)  # fmt: skip
def dpmpp_sde(
    b: Builder, order: int = 2, eta: float = 1.0, s_noise: float = 1.0, method: str = "multistep", correction: str = ""
):
    """SDE-DPM-Solver++(1M, 2M, 3M), and the singlestep solver with two calls a step.

    The prediction of x0 is extrapolated as by :func:`dpmpp`, the noise of the reverse SDE is integrated exactly;
    ``eta`` scales its diffusion, 0 is the ODE. ``method`` "singlestep" is the form in which k-diffusion offers it as
    DPM++ SDE, a step of second order through the middle in log-SNR with ancestral noise.
    """
    not_negative("dpmpp_sde", eta=eta, s_noise=s_noise)
    option("dpmpp_sde", "method", method, ("multistep", "singlestep"))
    if method == "multistep":
        return _dpm(b, "dpmpp_sde", order, "published", method, correction, "sample", float(eta), s_noise)
    option("dpmpp_sde", "order of the singlestep method", order, (2,))
    x = b.noise()
    for s, t in b.intervals():
        m = b.predict(x, s)
        if not (s.finite and t.finite):
            x = Ancestral(s, t, eta).apply(b, x, m, s_noise=s_noise)
            continue
        u = b.point(lam=0.5 * (s.lam + t.lam))
        if not eta:
            x = Ancestral(s, t, eta).apply(b, x, b.predict(Ancestral(s, u, eta).apply(b, x, m), u))
            continue
        early, late = b.gaussian(s, u), b.gaussian(u, t)
        m = b.predict(Ancestral(s, u, eta).apply(b, x, m, early, s_noise), u)
        # The noise of the whole step is that of its two parts: one Brownian path in sigma/alpha. It is added up after
        # the call, where the draws are there again; before it, the sum would be a register.
        first, second = s.ratio - u.ratio, u.ratio - t.ratio
        both = math.sqrt(first / (first + second)) * early + math.sqrt(second / (first + second)) * late
        x = Ancestral(s, t, eta).apply(b, x, m, both, s_noise)
    return x


def _fast_intervals(steps: int, infinite: int) -> int:
    """Intervals for ``steps`` model calls; a step from or to an infinite end of log-SNR takes one call."""
    calls = steps - infinite
    return calls // 3 + 1 + infinite if calls > 0 else steps


@solver(paper="Lu et al. 2022, arXiv 2206.00927, section 3.4", order="3; 2 with its last steps",
        calls="1 (steps are calls)", grid="log_snr", intervals=_fast_intervals)  # fmt: skip
def dpm_fast(b: Builder, form: str = "epsilon"):
    """DPM-Solver-fast: ``steps`` is the number of model calls, spent on singlestep solvers of order 3.

    Intervals equal in log-SNR, of order 3 as long as the calls last, the last ones of order 2 and 1, or of what is
    left. With custom ``times`` the number of calls follows from the intervals: 3 each but 2 and 1 for the last two.
    """
    option("dpm_fast", "form", form, ("sample", "epsilon"))
    if b.rising:
        raise ValueError("dpm_fast runs from noise to data alone; for inversion take ddim(inverse=True)")
    infinite = sum(not (s.finite and t.finite) for s, t in itertools.pairwise(b.points))
    count = len(b.points) - 1 - infinite
    calls = 3 * (count - 1) if b.steps is None else b.steps - infinite
    rest = calls - 3 * (count - 1)
    orders = iter([3] * (count - 1) + [rest] if rest else ([3] * (count - 2) + [2, 1])[-count:])
    x = b.noise()
    for s, t in b.intervals():
        order = next(orders) if s.finite and t.finite else 1
        x = singlestep(b, x, b.predict(x, s, s.form(form)), s, t, order, s.form(form))
    return x


def _dpm(
    b: Builder, name: str, order: int, variant: str, method: str, correction: str, form: str, eta: float, s_noise=1.0
) -> Value:
    option(name, "order", order, (1, 2, 3))
    option(name, "variant", variant, ("published", "exact"))
    option(name, "method", method, ("multistep", "singlestep"))
    option(name, "correction", correction, ("", "midpoint", "heun"))
    x, history = b.noise(), []
    for s, t in b.intervals():
        now = s.form(form)
        m = b.predict(x, s, now)
        if method == "singlestep":
            left = len(b.points) - 1 - s.index
            rank = min(order, left) if b.lower_order_final else order
            x = singlestep(b, x, m, s, t, rank, now, variant, correction)
            continue
        history = extended(history, s, m, order)
        rank = b.order_at(s, t, order, len(history))
        step = Exponential(s, t, now, eta)
        x = step.scale * x + _multistep(step, history[:rank], s, t, variant, correction)
        if step.noise is not None and not t.is_end:
            x = x + (s_noise * step.noise) * b.gaussian(s, t)
    return x


def _multistep(step: Exponential, history: list, s: Point, t: Point, variant: str, correction: str) -> Value:
    """What the predictions, the newest first, add to a step."""
    m0 = history[0][1]
    learned = m0.builder.coefficient
    w0 = learned("m0", step.weight(0))
    if len(history) == 1:
        return w0 * m0
    h = t.lam - s.lam
    (s1, m1), *older = history[1:]
    r0 = (s.lam - s1.lam) / h
    d0 = (m0 - m1) / r0
    if not older:
        # The paper holds D = m0 + d0/2 for the whole step.
        return w0 * m0 + learned("D1", step.weight(1) if correction == "heun" else 0.5 * step.weight(0)) * d0
    s2, m2 = older[0]
    r1 = (s1.lam - s2.lam) / h
    d1 = (m1 - m2) / r1
    second = (d0 - d1) / (r0 + r1)
    first = d0 + r0 * second
    w2 = 2 * step.weight(2) if variant == "exact" else step.weight(2)
    return w0 * m0 + learned("D1", step.weight(1)) * first + learned("D2", w2) * second


def singlestep(
    b: Builder, x: Value, m0: Value, s: Point, t: Point, order: int, form: str,
    variant: str = "published", correction: str = "",
) -> Value:  # fmt: skip
    """One step from s to t with ``order`` − 1 model calls inside it, equally spaced in log-SNR; m0 is read at s."""
    if order == 1 or not (s.finite and t.finite):
        return transfer(b, x, m0, s, t, form)
    h, step = t.lam - s.lam, Exponential(s, t, form)
    r1, r2 = 1.0 / order, 2.0 / 3.0
    u1 = b.point(lam=s.lam + r1 * h)
    inner = Exponential(s, u1, form)
    x1 = inner.scale * x + inner.weight(0) * m0
    base = step.scale * x + step.weight(0) * m0
    if order == 2:
        weight = (step.weight(1) if correction == "heun" else 0.5 * step.weight(0)) / r1
        known = base - weight * m0  # all but the new prediction: one tensor carries it over the call
        return known + weight * b.predict(x1, u1, form)
    u2 = b.point(lam=s.lam + r2 * h)
    inner = Exponential(s, u2, form)
    weight = r2 / r1 * inner.weight(1)
    known = inner.scale * x + (inner.weight(0) - weight) * m0
    if variant == "published":
        last = step.weight(1) / r2
        base = base - last * m0
        x2 = known + weight * b.predict(x1, u1, form)
        return base + last * b.predict(x2, u2, form)
    d1 = b.predict(x1, u1, form) - m0
    d2 = b.predict(known + weight * (d1 + m0), u2, form) - m0
    first = (r2 / r1 * d1 - r1 / r2 * d2) / (r2 - r1)
    return base + step.weight(1) * first + (2.0 * step.weight(2) / (r2 - r1)) * (d2 / r2 - d1 / r1)
