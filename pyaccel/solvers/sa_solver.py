"""SA-Solver: stochastic Adams methods with predictor and corrector (Xue et al. 2023, arXiv 2309.05019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..schedules import Schedule
from .builder import Builder, Point, Value, extended
from .exponential import Exponential
from .family import solver
from .settings import not_negative, option


@solver(paper="Xue et al. 2023, arXiv 2309.05019, Algorithm 1, eq. 14 and 17", order="predictor (strong, tau = 0)",
        stochastic=True)  # fmt: skip
def sa_solver(
    b: Builder,
    predictor: int = 2,
    corrector: int = 2,
    tau: float | Callable[[float], float] = 1.0,
    interval: Sequence[float] | None = None,
    variant: str = "few_steps",
):
    """SA-Solver: predicts with the last ``predictor`` predictions of x0, corrects with ``corrector`` of them.

    The new prediction is among the corrector's, and both add the same noise; ``corrector`` 0 leaves it away. ``tau``
    scales the noise of the reverse SDE, within ``interval`` of the time (1 is noise) and 0 elsewhere, or as a function
    of the time; tau = 0 is the ODE. The default interval is (0.2, 0.8), for edm and ve that of sigma from 0.05 to 1.
    The weights integrate the Lagrange polynomials exactly; where two predictions are
    used, ``variant`` "few_steps" replaces that of their difference by half the step, as the authors' code does, and
    "exact" does not. From the infinite ends of log-SNR the steps are of first order.
    """
    option("sa_solver", "predictor", predictor, (1, 2, 3, 4))
    option("sa_solver", "corrector", corrector, (0, 1, 2, 3, 4))
    option("sa_solver", "variant", variant, ("few_steps", "exact"))
    if not callable(tau):
        not_negative("sa_solver", tau=tau)
    low, high = _interval(b.schedule, interval)
    scale = tau if callable(tau) else lambda t: tau if low <= t <= high else 0.0
    x, history, correct = b.noise(), [], None
    for s, t in b.intervals():
        m = b.predict(x, s)
        if correct is not None:
            x = correct(x, m)
        history = extended(history, s, m, max(predictor, corrector - 1))
        left = len(b.points) - 1 - s.index
        eta = float(scale(s.t)) ** 2
        step, xi = Exponential(s, t, "sample", eta), None
        base = step.scale * x
        if step.noise is not None and not t.is_end:
            xi = b.gaussian(s, t)
            base = base + step.noise * xi
        rank = b.order_at(s, t, predictor, len(history))
        x = _adams(base, step, history[:rank], s, t, variant)
        correct = None
        if corrector and t.finite and left > 1 and (s.finite or corrector > 1):
            count = min(corrector, len(history) + 1, left + 1 if b.lower_order_final else corrector)
            correct = _corrector(x, base, step, history[: count - 1], s, t, variant)
    return x


def _interval(schedule: Schedule, given: Sequence[float] | None) -> tuple[float, float]:
    if given is None:
        if schedule.name in ("edm", "ve"):
            return schedule.time_of_sigma(0.05), schedule.time_of_sigma(1.0)
        return 0.2, 0.8
    if len(given) != 2 or not 0 <= given[0] <= given[1] <= 1:
        raise ValueError(f"sa_solver: interval must be two times with 0 <= low <= high <= 1, got {given!r}")
    return tuple(given)


def _corrector(
    predicted: Value, base: Value, step: Exponential, history: list, s: Point, t: Point, variant: str
) -> Callable[[Value, Value], Value]:
    """What gives the corrected sample at t from the sample and the prediction there; the rest is added up now.

    It is kept as the difference to the ``predicted`` sample, so that what replaces that one replaces both.
    """
    if not s.finite:
        history = history[:1]
    nodes = [1.0, *((p.lam - s.lam) / (t.lam - s.lam) for p, _ in history[1:])] if s.finite else [1.0]
    values = [m for _, m in history]
    if not history:  # the new prediction alone, held for the whole step
        known, weight = base, step.weight(0)
    elif not s.finite:
        known, weight = base + 0.5 * step.weight(0) * values[0], 0.5 * step.weight(0)
    else:
        first, weight, *rest = _weights(step, nodes, variant)
        known = base + first * values[0]
        for w, m in zip(rest, values[1:], strict=True):
            known = known + w * m
    known = known - predicted
    return lambda x, m: x + known + weight * m


def _adams(base: Value, step: Exponential, history: list, s: Point, t: Point, variant: str) -> Value:
    nodes = [(p.lam - s.lam) / (t.lam - s.lam) for p, _ in history[1:]]
    for w, (_, m) in zip(_weights(step, nodes, variant), history, strict=True):
        base = base + w * m
    return base


def _weights(step: Exponential, nodes: list, variant: str) -> list:
    """Of the predictions at s and at ``nodes``."""
    if len(nodes) == 1 and variant == "few_steps":
        difference = 0.5 * step.gain * step.h / nodes[0]
        return [step.weight(0) - difference, difference]
    return step.weights(nodes)
