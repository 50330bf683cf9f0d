"""The Plan: a sampler as a table. Plain data, no code; saved as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomically

SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """register[``target``] = Σ_r ``reads[r]``·register[r] + ``new``·m, with m the stage's prediction.

    In the start rows, which come before any prediction, ``new`` multiplies the noise.
    """

    target: int
    reads: dict[int, float]
    new: float


@dataclass(frozen=True)
class Stage:
    """One model call and the update after it.

    The model sees register ``input`` and is told ``model_time``; its output is read as ``form`` (``sample`` or
    ``epsilon``) with the schedule's ``alpha`` and ``sigma``; then all ``rows`` are computed at once, from the
    registers as they were.
    """

    t: float
    alpha: float
    sigma: float
    model_time: float
    form: str
    input: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Cost:
    """What a run moves and launches beside the model calls themselves."""

    calls: int
    launches: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """A sampler between noise and data: model calls, and one linear combination after each.

    ``prediction`` says what a bare function is taken to return; a :class:`pyaccel.Denoiser` knows its own. Solvers
    make Plans (:mod:`pyaccel.solvers`); :meth:`sample` runs them.
    """

    start: tuple[Row, ...]
    stages: tuple[Stage, ...]
    output: int
    prediction: str
    schedule: tuple[str, dict[str, Any]]
    times: tuple[float, ...]
    solver: str = "custom"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Model calls of one run."""
        return len(self.stages)

    @property
    def steps(self) -> int:
        """Intervals of the time grid."""
        return len(self.times) - 1

    @property
    def registers(self) -> int:
        """Tensors of the sample's size that a run holds at most."""
        return 1 + max(row.target for rows in (self.start, *(stage.rows for stage in self.stages)) for row in rows)

    def sample(
        self,
        denoiser: Callable[..., torch.Tensor],
        noise: torch.Tensor,
        *,
        seed: int | None = None,
        callback: Callable[[int, float, torch.Tensor], torch.Tensor | None] | None = None,
        progress: bool = False,
        grad: bool = False,
        **conditioning,
    ) -> torch.Tensor:
        """Runs the plan: a sample like ``noise``.

        Args:
            denoiser: a :class:`pyaccel.Denoiser` or any callable ``(x, t, **conditioning) -> prediction`` with x like
                noise and t a float tensor [B], the schedule's model time.
            noise: unit Gaussian, [B, ...]; the plan scales it. The state of the run is float32, or float64 if noise is.
            seed: of the noise that a stochastic plan adds on its way. The solvers here add none, and ignore it.
            callback: called after each step as ``callback(step, t, x)`` with the number of the model call, the time
                of that call and the new sample, a tensor of the callback's own; returning a tensor replaces the
                sample.
            progress: show a progress bar.
            grad: keep the graph for gradients through the whole run; also kept when noise requires gradients.
            conditioning: handed on to the denoiser.

        Raises:
            TypeError, ValueError: noise that is not a real floating-point tensor [B, ...]; a prediction that is not
                like it.
        """
        from .executor import run

        return run(self, denoiser, noise, callback, progress, grad, conditioning)

    def cost(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Cost:
        """Calls, launches and bytes of the updates for samples of ``shape``, state and network in ``dtype``."""
        elements = 1
        for size in shape:
            elements *= size
        tensors = 1 + len(self.start)
        for stage in self.stages:
            read = {r for row in stage.rows for r in row.reads} | {stage.input}
            tensors += len(read) + 1 + len(stage.rows)
        return Cost(self.calls, self.calls + 1, tensors * elements * dtype.itemsize)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the plan as JSON, atomically; floats are exact."""
        data = {"schema": SCHEMA, "kind": "pyaccel plan", **asdict(self)}
        write_atomically(path, lambda temporary: Path(temporary).write_text(json.dumps(data, indent=1)))

    @staticmethod
    def load(path: str | os.PathLike) -> Plan:
        """A saved plan; ValueError when the file is damaged, from a newer version or not a plan."""
        text = Path(path).read_text()
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not a whole JSON file ({error}); save the plan again") from None
        if not isinstance(data, dict) or data.pop("kind", None) != "pyaccel plan":
            raise ValueError(f"{path} is not a plan of pyaccel")
        schema = data.pop("schema", None)
        if schema != SCHEMA:
            raise ValueError(f"{path} has schema {schema!r}, this version reads {SCHEMA}; update pyaccel to read it")
        try:
            plan = _from_data(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); save the plan again") from None
        _check(plan, path)
        return plan

    def __str__(self) -> str:
        name, parameters = self.schedule
        options = ", ".join(f"{k}={v}" for k, v in {**parameters, **self.options}.items() if k != "betas")
        lines = [
            f"{self.solver} on {name}: {self.steps} steps, {self.calls} model calls, {self.registers} registers"
            + (f" ({options})" if options else ""),
            " call        t    alpha    sigma   m  update",
        ]
        lines += [f"    -                                {_equation(row, 'noise')}" for row in self.start]
        for i, stage in enumerate(self.stages):
            m = {"sample": "x0", "epsilon": "eps"}[stage.form]
            head = f"{i:5d} {stage.t:8.5f} {stage.alpha:8.5f} {stage.sigma:8.5f} {m:>3}"
            for j, row in enumerate(stage.rows):
                lines.append(f"{head if j == 0 else ' ' * len(head)}  {_equation(row, f'm(r{stage.input})')}")
        return "\n".join([*lines, f"result: r{self.output}"])


def _equation(row: Row, new: str) -> str:
    terms = [f"{c:+.5f}·r{r}" for r, c in row.reads.items()]
    return f"r{row.target} = " + " ".join([*terms, f"{row.new:+.5f}·{new}"])


def _from_data(data: dict) -> Plan:
    def row(r: dict) -> Row:
        return Row(int(r["target"]), {int(k): float(c) for k, c in r["reads"].items()}, float(r["new"]))

    def stage(s: dict) -> Stage:
        numbers = {key: float(s[key]) for key in ("t", "alpha", "sigma", "model_time")}
        return Stage(**numbers, form=str(s["form"]), input=int(s["input"]), rows=tuple(row(r) for r in s["rows"]))

    name, parameters = data["schedule"]
    return Plan(
        start=tuple(row(r) for r in data["start"]),
        stages=tuple(stage(s) for s in data["stages"]),
        output=int(data["output"]),
        prediction=str(data["prediction"]),
        schedule=(str(name), dict(parameters)),
        times=tuple(float(t) for t in data["times"]),
        solver=str(data["solver"]),
        options=dict(data["options"]),
    )


def _check(plan: Plan, path) -> None:
    """Every register is written before it is read: a file that was edited by hand fails here, not in the middle."""
    held: set[int] = {row.target for row in plan.start}
    for i, stage in enumerate(plan.stages):
        wanted = {stage.input} | {r for row in stage.rows for r in row.reads}
        if not wanted <= held:
            raise ValueError(f"{path}: call {i} reads registers {sorted(wanted - held)} that nothing has written")
        held |= {row.target for row in stage.rows}
    if plan.output not in held or not plan.stages:
        raise ValueError(f"{path}: the result, register {plan.output}, is never written")
