"""Adaptive DPM-Solver: the steps are chosen as the run goes, by the difference of two orders."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .. import ops, predictions
from ..denoiser import Run, StepContext, announce
from ..progress import progress_bar
from ..schedules import Schedule
from .builder import Builder, Point
from .exponential import Exponential
from .family import SOLVERS, About
from .run_checks import call_name, check_image, check_noise, refuse, with_batched_guidance
from .settings import natural_prediction, option


@dataclass(frozen=True)
class Attempt:
    """A step that was tried: from time ``t_from`` to ``t_to``, with its ``error`` (accepted up to 1)."""

    t_from: float
    t_to: float
    error: float
    accepted: bool


@dataclass
class AdaptiveSolver:
    """What :func:`dpm_adaptive` returns. Not a Plan: its table is not known before the run. ``attempts`` and ``calls``
    tell of the last run."""

    schedule: Schedule
    order: int
    rtol: float
    atol: float
    first_step: float
    safety: float
    prediction: str
    start: float
    end: float
    most_calls: int
    attempts: list[Attempt] = field(default_factory=list)
    calls: int = 0

    @torch.no_grad()
    def sample(
        self,
        denoiser: Callable[..., torch.Tensor],
        noise: torch.Tensor,
        *,
        image: torch.Tensor | None = None,
        batched_guidance: bool | None = None,
        callback: Callable[[int, float, torch.Tensor], None] | None = None,
        progress: bool = False,
        **conditioning,
    ) -> torch.Tensor:
        """A sample like ``noise`` [B, ...]; all of a batch share their steps, the worst sample decides.

        ``image`` and ``batched_guidance`` are as of :meth:`Plan.sample`; ``callback(step, t, x)`` is called after each
        accepted step. Raises RuntimeError after ``most_calls`` model calls, FloatingPointError when the model returns
        NaN or infinite values.
        """
        foreign = sorted({"seed", "generator", "noise_sampler", "mask", "grad"} & set(conditioning))
        if foreign:
            raise TypeError(f"dpm_adaptive.sample has no {', '.join(foreign)}: it adds no noise and keeps no region")
        check_noise(noise)
        if image is not None:
            check_image(image, noise)
        denoiser = with_batched_guidance(denoiser, batched_guidance)
        self.attempts, self.calls = [], 0
        b = Builder(self.schedule, [self.start, self.end], self.prediction)
        s, last = b.points
        if last.is_end:
            last = b.point(t=self.schedule.t_min)
        run = _Run(self, denoiser, noise, conditioning)
        state = torch.float64 if noise.dtype == torch.float64 else torch.float32
        x = ops.linear_combination([noise], [[s.sigma]], dtype=state)[0]
        if image is not None:
            x = _combined([x, image.to(x)], [1.0, s.alpha])
        previous = x
        h = min(self.first_step, last.lam - s.lam)
        with progress_bar(f"sampling (dpm_adaptive {self.order})", 100, progress) as bar:
            total, done = last.lam - s.lam, 0
            eps = run.predict(x, s)
            while last.lam - s.lam > 1e-9 * total:
                t = last if h >= last.lam - s.lam else b.point(lam=s.lam + h)
                low, high = self._pair(run, b, x, eps, s, t)
                scale = torch.clamp(self.rtol * torch.maximum(low.abs(), previous.abs()), min=self.atol)
                errors = ((high - low) / scale).square().reshape(len(x), -1).mean(1).sqrt()
                error = float(errors.max())
                accepted = error <= 1
                self.attempts.append(Attempt(float(s.t), float(t.t), error, accepted))
                if accepted:
                    x, previous, s = high, low, t
                    if t is not last or b.points[1].is_end:
                        eps = run.predict(x, s)
                    if callback is not None:
                        callback(sum(a.accepted for a in self.attempts) - 1, float(s.t), x.clone())
                    bar.advance(int(100 * (1 - (last.lam - s.lam) / total)) - done)
                    done = int(100 * (1 - (last.lam - s.lam) / total))
                h = min(self.safety * (t.lam - self._begin(s, t, accepted)) * max(error, 1e-10) ** (-1 / self.order),
                        last.lam - s.lam)  # fmt: skip
        if b.points[1].is_end:  # to no noise at all: the prediction of x0
            x = ops.linear_combination([x, eps], [[1 / s.alpha, -s.sigma / s.alpha]])[0]
        return x.to(noise.dtype)

    def _begin(self, s: Point, t: Point, accepted: bool) -> float:
        """Half log-SNR at the begin of the attempt to t."""
        return float(self.schedule.lam(self.attempts[-1].t_from)) if accepted else s.lam

    def _pair(self, run: _Run, b: Builder, x, e0, s: Point, t: Point):
        """The sample at t by the lower and by the higher of the two orders, which share their calls."""
        h, step = t.lam - s.lam, Exponential(s, t, "epsilon")
        r = 1 / self.order
        u = b.point(lam=s.lam + r * h)
        inner = Exponential(s, u, "epsilon")
        e1 = run.predict(_combined([x, e0], [inner.scale, inner.weight(0)]), u)
        w = 0.5 * step.weight(0) / r
        second = _combined([x, e0, e1], [step.scale, step.weight(0) - w, w])
        if self.order == 2:
            return _combined([x, e0], [step.scale, step.weight(0)]), second
        v = b.point(lam=s.lam + 2 * r * h)
        inner = Exponential(s, v, "epsilon")
        w = 2 * inner.weight(1)
        e2 = run.predict(_combined([x, e0, e1], [inner.scale, inner.weight(0) - w, w]), v)
        w = step.weight(1) / (2 * r)
        return second, _combined([x, e0, e2], [step.scale, step.weight(0) - w, w])


class _Run:
    """The denoiser as a function to predictions of the noise, in one launch after each call."""

    def __init__(self, solver: AdaptiveSolver, denoiser, noise: torch.Tensor, conditioning: dict):
        self.solver, self.conditioning, self.shape = solver, conditioning, noise.shape
        self.branches = getattr(denoiser, "branches", None) or (lambda x, t, **c: [denoiser(x, t, **c)])
        self.weights = getattr(denoiser, "weights", [1.0])
        self.prediction = getattr(denoiser, "prediction", None) or solver.prediction
        self.network = getattr(denoiser, "dtype", None) or noise.dtype
        self.identity = Run()

    def predict(self, x: torch.Tensor, s: Point) -> torch.Tensor:
        """The noise in x at s."""
        solver, number = self.solver, self.solver.calls
        if number >= solver.most_calls:
            raise RuntimeError(
                f"dpm_adaptive made {number} model calls and has come to t = {float(s.t):.4g}: raise rtol and atol, or "
                "most_calls"
            )
        solver.calls += 1
        time = torch.full((len(x),), float(s.model_time), dtype=x.dtype, device=x.device)
        with announce(StepContext(self.identity, number, solver.most_calls, float(s.t))):
            outputs = self.branches(x.to(self.network), time, **self.conditioning)
        for o in outputs:
            if not isinstance(o, torch.Tensor) or o.shape != self.shape:
                refuse(o, self.shape, [call_name(number, float(s.t))])
        p, q = predictions.convert(self.prediction, "epsilon", s.alpha, s.sigma)
        if isinstance(self.weights[0], torch.Tensor):
            rows = torch.stack([torch.full_like(self.weights[0], p), *(q * w for w in self.weights)], -1)[:, None]
        else:
            rows = [[p, *(q * w for w in self.weights)]]
        eps = ops.linear_combination([x, *outputs], rows, dtype=x.dtype)[0]
        if not math.isfinite(float(eps.sum())):
            raise FloatingPointError(f"{call_name(number, float(s.t))} returned NaN or infinite values")
        return eps


def dpm_adaptive(
    schedule: Schedule,
    steps: None = None,
    *,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    first_step: float = 0.05,
    safety: float = 0.9,
    prediction: str | None = None,
    start: float | None = None,
    end: float = 0.0,
    most_calls: int = 10_000,
) -> AdaptiveSolver:
    """DPM-Solver-12 or -23: steps in half log-SNR, each as long as the error allows.

    Two orders share their model calls; where their difference, relative to max(``atol``, ``rtol``·|x|), has a root mean
    square above 1 in any sample, the step is made again, shorter. ``first_step`` is in half log-SNR; after each step
    the next is ``safety``·error^(−1/order) times as long. A last call takes the prediction of x0 where ``end`` is
    without noise. Returns an object with ``sample(denoiser, noise, **conditioning)``, whose ``attempts`` and ``calls``
    tell what was done. Source: Lu et al. 2022, arXiv 2206.00927, Appendix C.
    """
    if steps is not None:
        raise ValueError("dpm_adaptive chooses its steps by itself: leave steps away and give rtol and atol")
    option("dpm_adaptive", "order", order, (2, 3))
    for name, value in (("rtol", rtol), ("atol", atol), ("first_step", first_step), ("safety", safety)):
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise ValueError(f"dpm_adaptive: {name} must be a positive number, got {value!r}")
    if start is None:
        start = schedule.t_max if schedule.alpha(1.0) == 0 else 1.0
    if not 0 <= end < start <= 1 or schedule.alpha(start) == 0:
        raise ValueError(f"dpm_adaptive: need 0 <= end < start and a finite log-SNR at start, got {end} and {start}")
    prediction = predictions.check(prediction or natural_prediction(schedule))
    return AdaptiveSolver(schedule, order, rtol, atol, first_step, safety, prediction, start, end, most_calls)


def _combined(tensors: list[torch.Tensor], row: list[float]) -> torch.Tensor:
    return ops.linear_combination(tensors, [row])[0]


dpm_adaptive.about = About(
    "dpm_adaptive",
    "DPM-Solver-12 or -23: steps in half log-SNR, each as long as the error allows",
    "Lu et al. 2022, arXiv 2206.00927, Appendix C",
    "2 or 3",
    "2 or 3, adaptive",
    options=("order", "rtol", "atol", "first_step", "safety", "most_calls"),
)
SOLVERS["dpm_adaptive"] = dpm_adaptive
