"""AMED-Solver (Zhou et al. 2024, arXiv 2312.00094): two calls a step, the second at a place that is learned."""

from __future__ import annotations

from ..scalars import exp
from .builder import Builder
from .ddim import transfer
from .family import solver


@solver(paper="Zhou et al. 2024, arXiv 2312.00094, and its code", order="2", calls="2")
def amed(b: Builder):
    """AMED-Solver: Euler to a point u between s and t, and from s to t with the scaled direction found there.

    x_u = x_s + (rho_u − rho_s)·eps(x_s, s) and x_t = x_s + c·(rho_t − rho_s)·eps(x_u, u) in rho = sigma/alpha, with
    rho_u = rho_t^r·rho_s^(1−r); at u the network is told a times the time. Untrained, r = 1/2 and a = c = 1, it is
    DPM-Solver-2; trained (``TrainablePlan(plan, learn=["named"])``) each step has its own r in (0, 1), a > 0 and c. The
    paper predicts the three for each sample; here they are the same for all samples. Where an end has no finite
    log-SNR, u divides the time instead, and a step from pure noise holds and scales x0 instead of eps.
    """
    x = b.noise()
    for s, t in b.intervals():
        form = s.form("epsilon")
        m = b.predict(x, s, form)
        r = 1.0 / (1.0 + exp(-b.coefficient("r", 0.0)))
        u = b.point(lam=s.lam + r * (t.lam - s.lam)) if s.finite and t.finite else b.point(t=s.t + r * (t.t - s.t))
        u.model_time = b.schedule.model_time(u.t * exp(b.coefficient("a", 0.0)))
        d = b.predict(transfer(b, x, m, s, u, form), u, form)
        x = transfer(b, x, b.coefficient("c", 1.0) * d, s, t, form)
    return x
