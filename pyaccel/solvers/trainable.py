"""``TrainablePlan``: a Plan with parameters in it, and back to a plain Plan.

What is learned (GS, arXiv 2510.17699): the times, a shift of the time that the network is told at each call,
corrections to the solver's coefficients, and weights on all older predictions and all past samples, so that a solver of
N steps is of order N. All parameters together are N² + 3N − 1 numbers for a multistep solver. They are float64 and stay
on the CPU: the table of coefficients is computed there with its Jacobian (:mod:`pyaccel.duals`), and goes to the device
of the noise as one small tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import nn

from ..denoiser import Denoiser
from ..duals import DerivativeLost, seeds
from .builder import Builder, Value
from .corrections import Corrections
from .plan import TRAINED, Plan, Stage
from .replay import RowsBuilder, rows_of, solver_of
from .run_checks import check_schedule
from .table import Table, live_table
from .trajectory import run_table

LEARNED = ("times", "shifts", "coefficients", "states")
_NAMES = {"times": "time_logits", "shifts": "time_shifts", "coefficients": "coefficients", "states": "states"}


class TrainablePlan(nn.Module):
    """A plan whose numbers are parameters; untrained it is the plan that it was made from, to rounding.

    Args:
        plan: a deterministic Plan from noise to data without threshold or tensors, made by any of our solvers, traced
            from a scheduler, or loaded.
        learn: which of ``times``, ``shifts``, ``coefficients`` and ``states`` require gradients; ``named`` are those
            coefficients alone that the solver itself has, without the weights of older predictions.
        form: "solver" derives the coefficients from the learned times by the solver that made the plan; "table" takes
            those of the plan as they are, so its times are fixed; "auto" is "solver" wherever that is possible.

    Parameters, all zero at the start but for the logits:
        time_logits [N − 1]: t_i = t_N + (t_0 − t_N)·Π_{k≤i} sigmoid(logit_k): stick-breaking, so always monotone.
        time_shifts [calls]: added to the time that the network is told, in units of the range of what it is told.
        coefficients, states: see :class:`pyaccel.solvers.corrections.Corrections`.

    Raises ValueError for plans that cannot be trained, with the reason.
    """

    def __init__(self, plan: Plan, *, learn: Iterable[str] = LEARNED, form: str = "auto"):
        super().__init__()
        if form not in ("auto", "solver", "table"):
            raise ValueError(f"TrainablePlan: form must be 'auto', 'solver' or 'table', got {form!r}")
        _check(plan)
        self.origin, self.form, self._schedule = plan, "table", None
        self._function: Callable[[Builder], Value] = lambda b: rows_of(b, plan)
        told = [call.model_time for stage in plan.stages for call in stage.calls]
        self._span = (max(told) - min(told)) or 1.0
        names = self._record()
        if form != "table":
            reason = self._use_solver(plan)
            if reason and form == "solver":
                raise ValueError(f"TrainablePlan: {reason}; form='table' keeps the times of the plan")
            names = names if reason else self._record()
        self.coefficient_names, self.state_names = names
        zeros = [len(told), *map(len, names)]
        logits = _logits(plan.times) if self.learns_times else torch.zeros(0, dtype=torch.float64)
        self.time_logits = nn.Parameter(logits)
        for name, count in zip(("time_shifts", "coefficients", "states"), zeros, strict=True):
            setattr(self, name, nn.Parameter(torch.zeros(count, dtype=torch.float64)))
        self.learn(learn)

    @property
    def learns_times(self) -> bool:
        """Whether the coefficients follow from the times, so that these can be learned."""
        return self.form == "solver"

    def learn(self, names: Iterable[str]) -> None:
        """Lets gradients flow to these of :data:`LEARNED`, or ``named``, alone."""
        names = set(names)
        unknown = names - {*LEARNED, "named"}
        if unknown:
            raise ValueError(
                f"TrainablePlan learns {', '.join(LEARNED)} and named; got {', '.join(sorted(map(str, unknown)))}"
            )
        learned = ["coefficients" in names or not name.startswith("m[") for _, name in self.coefficient_names]
        self._learned = torch.tensor(learned, dtype=torch.bool)
        if "named" in names:
            names.add("coefficients")
        for name, attribute in _NAMES.items():
            getattr(self, attribute).requires_grad_(name in names)

    @property
    def learned_numbers(self) -> int:
        """How many numbers get gradients."""
        coefficients = int(self._learned.sum()) if self.coefficients.requires_grad else 0
        others = (p for p in self.parameters() if p.requires_grad and p is not self.coefficients)
        return coefficients + sum(p.numel() for p in others)

    def times(self) -> torch.Tensor:
        """The times [N + 1], falling, with their gradients."""
        first, last = self.origin.times[0], self.origin.times[-1]
        inner = last + (first - last) * torch.cumprod(torch.sigmoid(self.time_logits), 0)
        ends = torch.tensor([first, last], dtype=inner.dtype, device=inner.device)
        return torch.cat([ends[:1], inner, ends[1:]])

    def table(self, prediction: str | None = None, weights: tuple[float, ...] = (1.0,)) -> Table:
        """All coefficients of a run, differentiable in the parameters, for a model that predicts ``prediction`` and
        whose branches of guidance have these ``weights``.
        """
        inner = self.times()[1:-1] if self.learns_times else self.time_logits
        coefficients = torch.where(self._learned, self.coefficients, self.coefficients.detach())
        numbers = inner, self.time_shifts, coefficients, self.states
        return live_table(self._live, numbers, prediction or self.origin.prediction, weights)

    def forward(
        self, denoiser: Callable[..., torch.Tensor], noise: torch.Tensor, *, checkpoint: bool = False, **conditioning
    ) -> torch.Tensor:
        """A sample like ``noise`` [B, ...], unit Gaussian, with gradients to the parameters.

        Args:
            denoiser: as for :meth:`Plan.sample`, with guidance as one number. Its own parameters should not require
                gradients: they would get them.
            checkpoint: keep no activations of the model but make each call again in the backward pass: memory for one
                call instead of all of them, for a third more time.
            conditioning: handed on to the denoiser.
        """
        return self.run(self.table_for(denoiser), denoiser, noise, checkpoint, conditioning)

    def table_for(self, denoiser: Callable[..., torch.Tensor]) -> Table:
        """The table for this denoiser's prediction and guidance."""
        if isinstance(denoiser, Denoiser):
            check_schedule(self.origin, denoiser)
        weights = tuple(getattr(denoiser, "weights", (1.0,)))
        if any(isinstance(w, torch.Tensor) for w in weights):
            raise ValueError("a TrainablePlan takes guidance as one number for all samples")
        return self.table(getattr(denoiser, "prediction", None), weights)

    run = staticmethod(run_table)

    def plan(self, solver: str | None = None, **facts) -> Plan:
        """A plain Plan with the present numbers; ``facts`` are added to its options."""
        with torch.no_grad():
            groups = [p.tolist() for p in (self.times()[1:-1], self.time_shifts, self.coefficients, self.states)]
        live = self._live(*groups)
        options = {**self.origin.options, TRAINED: self.origin.solver, **facts}
        return replace(
            live, solver=solver or f"trained {self.origin.solver}", options=options, ends=self.origin.ends,
            schedule=self.origin.schedule,
        )  # fmt: skip

    # -- the plan of given numbers ------------------------------------------------------------------------------------

    def _builder(self, inner: list, corrections: Corrections) -> Builder:
        origin = self.origin
        if self._schedule is None:
            b = RowsBuilder.of(origin)
        else:
            b = Builder(self._schedule, [origin.times[0], *inner, origin.times[-1]], origin.prediction)
        b.corrections = corrections
        return b

    def _live(self, inner: list, shifts: list, coefficients: list | None, states: list | None) -> Plan:
        """The plan with these numbers, floats or duals."""
        corrections = Corrections(coefficients, states)
        b = self._builder(inner, corrections)
        result = corrections.sample(b, self._function(b))
        plan = b.plan(result, keep=True)
        each = iter(shifts)
        return replace(plan, stages=tuple(self._shifted(stage, each) for stage in plan.stages))

    def _shifted(self, stage: Stage, shifts) -> Stage:
        calls = (replace(c, model_time=c.model_time + self._span * next(shifts)) for c in stage.calls)
        return Stage(tuple(calls), stage.rows)

    def _record(self) -> tuple[list, list]:
        """The names of all coefficients and weights, in the order in which the solver asks for them."""
        corrections = Corrections()
        b = self._builder(list(self.origin.times[1:-1]), corrections)
        corrections.sample(b, self._function(b))
        self._seen = len(corrections.samples)
        return corrections.coefficient_names, corrections.state_names

    def _use_solver(self, plan: Plan) -> str:
        """Empty where the plan's solver can be rebuilt with derivatives; otherwise the reason, and nothing changed."""
        found = solver_of(plan)
        if isinstance(found, str):
            return found
        before = self._function, self._schedule, self.form
        (self._function, self._schedule), self.form = found, "solver"
        try:
            names = self._record()
            if self._seen == plan.steps:
                numbers = [*plan.times[1:-1], *[0.0] * (plan.calls + sum(map(len, names)))]
                parts, at = seeds(numbers), 0
                groups = []
                for count in (plan.steps - 1, plan.calls, *map(len, names)):
                    groups.append(parts[at : at + count])
                    at += count
                self._live(*groups)
                return ""
            reason = f"{plan.solver} makes no model call at the begin of some of its steps"
        except DerivativeLost as error:
            reason = f"the coefficients of {plan.solver} have no derivatives by its times ({error})"
        self._function, self._schedule, self.form = before
        return reason


def _check(plan: Plan) -> None:
    if not isinstance(plan, Plan):
        raise TypeError(f"TrainablePlan wants a Plan, got {type(plan).__name__}")
    for reason, holds in (
        ("adds noise on its way", plan.stochastic),
        ("thresholds its predictions", plan.threshold is not None),
        ("has a coefficient for each element", bool(plan.tensors)),
        ("runs from data to noise", plan.rising),
    ):
        if holds:
            raise ValueError(f"TrainablePlan: {plan.solver} {reason}; it can train a plain solver of the ODE")


def _logits(times: tuple[float, ...]) -> torch.Tensor:
    t = torch.tensor(times, dtype=torch.float64)
    left = t[:-1] - t[-1]
    return torch.logit(left[1:] / left[:-1])
