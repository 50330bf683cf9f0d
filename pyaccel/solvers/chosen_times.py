"""Times of a solver that are chosen, not trained: by a bound of the error (DMN) or along the teacher's path (GITS)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch

from .. import predictions
from ..duals import Dual, seeds, value_of
from ..schedules import Schedule
from .corrections import Corrections
from .ddim import ddim
from .plan import Plan
from .settings import whole
from .trainable import TrainablePlan


def dmn_times(plan: Plan, *, power: float = 1.0, iterations: int = 400, rate: float = 0.02) -> list[float]:
    """Times [N + 1] of ``plan``'s solver that minimise a bound of its error (Xue et al. 2024, arXiv 2402.17376).

    The sample at the end is Σ_j W_j·m_j + W·noise over the predictions m_j of x0; where these err by e_j, it errs by at
    most Σ_j |W_j|·e_j. The paper takes e_j = sigma^``power``/alpha where the call is made, with 1 for pixels and 2 for
    latents. No model is asked. ``iterations`` of Adam at ``rate`` on the stick-breaking logits of the times.

    Raises ValueError for a plan that is not made by a solver of ours with derivatives.
    """
    trainable = TrainablePlan(plan, form="solver")
    if plan.steps == 1:
        return list(plan.times)
    logits = trainable.time_logits
    optimizer = torch.optim.Adam([logits], lr=rate)
    best, lowest = list(plan.times), math.inf
    for _ in range(iterations):
        times = trainable.times()
        value, slope = _bound(trainable, times[1:-1].tolist(), power)
        if value < lowest:
            best, lowest = times.tolist(), value
        optimizer.zero_grad()
        times[1:-1].backward(torch.tensor(slope))
        optimizer.step()
    return best


def _bound(trainable: TrainablePlan, inner: list[float], power: float) -> tuple[float, list[float]]:
    """Σ_j |W_j|·sigma_j^power/alpha_j of the plan with these inner times, and its derivatives by them."""
    b = trainable._builder(seeds(inner), Corrections())
    plan = b.plan(trainable._function(b), keep=True)
    registers: dict[int, list] = {row.target: [] for row in plan.start}
    count, total = 0, Dual(0.0, seeds(inner)[0].slope * 0.0) if inner else 0.0
    points = []
    for stage in plan.stages:
        points += stage.calls
        width = count + len(stage.calls)
        new = {}
        for row in stage.rows:
            weights = [0.0] * width
            for register, factor in row.reads.items():
                for j, w in enumerate(registers[register]):
                    weights[j] = weights[j] + factor * w
            for k, (call, factor) in enumerate(zip(stage.calls, row.new, strict=True)):
                of_x, of_x0 = predictions.convert("sample", call.form, call.alpha, call.sigma)
                for j, w in enumerate(registers[call.input]):
                    weights[j] = weights[j] + factor * of_x * w
                weights[count + k] = weights[count + k] + factor * of_x0
            new[row.target] = weights
        registers |= new
        count = width
    schedule = trainable._schedule
    low = float(schedule.alpha(schedule.t_max))
    for w, call in zip(registers[plan.output], points, strict=False):
        alpha = call.alpha if value_of(call.alpha) > low else low
        total = total + abs(w) * (call.sigma**power / alpha)
    return total.value, total.slope.tolist()


@torch.no_grad()
def gits_times(
    denoiser: Callable[..., torch.Tensor],
    schedule: Schedule,
    steps: int,
    noise: torch.Tensor,
    *,
    fine: int = 60,
    coefficient: float = 1.15,
    grid: str | None = None,
    prediction: str | None = None,
    **conditioning,
) -> list[float]:
    """Times [N + 1] among those of a fine run that cost least, by dynamic programming (GITS, arXiv 2405.11326).

    The cost of a step from the i-th to the j-th time is the mean distance between where one step of Euler's method
    leads and where the fine run is at the j-th; what follows a step counts ``coefficient`` times.

    Args:
        denoiser, conditioning: as for :meth:`Plan.sample`.
        noise: unit Gaussian, a few dozen samples [B, ...].
        fine: steps of the fine run, by DDIM on ``grid``, which makes ``fine`` calls for each sample.
    """
    steps, fine = whole("gits_times", "steps", steps, least=1), whole("gits_times", "fine", fine, least=1)
    if fine < steps:
        raise ValueError(f"gits_times: {steps} steps cannot be chosen among {fine}; ask for more fine steps")
    plan = ddim(schedule, fine, grid=grid, prediction=prediction)
    states = [float(schedule.sigma(plan.times[0])) * noise.float()]
    plan.sample(denoiser, noise, callback=lambda i, t, x: states.append(x.float()), **conditioning)
    levels = [(float(schedule.alpha(t)), float(schedule.sigma(t))) for t in plan.times]
    cost = torch.full((fine + 1, fine + 1), math.inf, dtype=torch.float64)
    for i in range(fine):
        (alpha, sigma), (after, ahead) = levels[i], levels[i + 1]
        # x0 as the fine run saw it, from its own step x' = (sigma'/sigma)·x + (alpha' − alpha·sigma'/sigma)·x0.
        x0 = (states[i + 1] - ahead / sigma * states[i]) / (after - alpha * ahead / sigma)
        for j in range(i + 1, fine + 1):
            to, left = levels[j]
            there = left / sigma * states[i] + (to - alpha * left / sigma) * x0
            cost[i, j] = float((there - states[j]).flatten(1).norm(dim=1).mean())
    # best[k][i]: the least cost from time i to the end in k steps.
    best, following = torch.full((steps + 1, fine + 1), math.inf, dtype=torch.float64), {}
    best[0, fine] = 0.0
    for k, i in itertools.product(range(1, steps + 1), range(fine - 1, -1, -1)):
        through = cost[i] + coefficient * best[k - 1]
        following[k, i] = int(through.argmin())
        best[k, i] = through[following[k, i]]
    chosen = [0]
    for k in range(steps, 0, -1):
        chosen.append(following[k, chosen[-1]])
    return [plan.times[i] for i in chosen]
