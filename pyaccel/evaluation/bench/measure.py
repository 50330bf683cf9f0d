"""Measuring: samples of every solver within every number of calls, against the solution of the same ODE."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch

from ... import __version__, solvers, zoo
from ...denoiser import Denoiser
from ...names import look_up
from ...progress import progress_bar
from ...seeding import sample_noise
from ...solvers import Plan
from ...time_grids import GRIDS
from ...training.record import machine_of
from ..quality import rmse
from ..sampling import labels_of
from .report import write_json, write_report
from .variants import Variant, chosen, plan_within

CALLS = (4, 5, 6, 8, 10, 20)
COUNT, REFERENCE_STEPS = 64, 200
QUICK = {"calls": (4, 6, 10), "count": 16, "reference steps": 100}


def run(
    folder: str | os.PathLike,
    models: Sequence[str] = ("fashion-dit",),
    *,
    calls: Sequence[int] | None = None,
    count: int | None = None,
    grid: str = "uniform",
    only: Sequence[str] | None = None,
    quick: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> dict:
    """Measures; writes results.json after every solver and in the end pictures and report.html; returns the results.

    Args:
        models: of the zoo.
        calls: model calls that a solver may make; each makes as many steps as that allows. Default 4 to 20.
        count: images; noise and labels are those of ``pyaccel demo`` with seed 0. Default 64.
        grid: of every solver, so that they differ by their formulas alone.
        only: names of variants or of solvers; all by default.
        quick: 16 images, fewer numbers of calls, a reference of 100 steps instead of 200.
        resume: keep the rows of an earlier results.json in ``folder`` that was made with the same settings.

    Raises ValueError for unknown names and for numbers below 1, before anything is measured.
    """
    rows, folder = chosen(only), Path(folder)
    calls = tuple(calls if calls is not None else QUICK["calls"] if quick else CALLS)
    count = count if count is not None else QUICK["count"] if quick else COUNT
    steps = QUICK["reference steps"] if quick else REFERENCE_STEPS
    look_up("grid", grid, GRIDS)
    if not calls or min(calls) < 1 or any(a >= b for a, b in pairwise(calls)):
        raise ValueError(f"calls must be rising numbers from 1 on, got {list(calls)}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    settings = {
        "images": count,
        "seed": 0,
        "network": "float32",
        "time grid": grid,
        "reference": f"UniPC, {steps} steps",
        "pyaccel": __version__,
    }
    results = {
        "title": "pyaccel bench: the error of solvers against their model calls",
        "machine": machine_of(torch.device("cpu")),
        "settings": settings,
        "calls": list(calls),
        "models": {},
    }
    earlier = _earlier(folder, results) if resume else {}
    denoisers = {name: zoo.load(name) for name in models}
    plans = {
        name: {v: [plan_within(v, denoiser.schedule, budget, grid) for budget in calls] for v in rows}
        for name, denoiser in denoisers.items()
    }
    total = sum(_work(earlier.get(name, {}), plans[name]) + steps for name in models)
    with progress_bar("bench", total, progress) as bar:
        for name, denoiser in denoisers.items():
            solver_rows = {"name": denoiser.schedule.name, "parameters": denoiser.schedule.parameters}
            entry = {"schedule": solver_rows, "prediction": denoiser.prediction, "rows": []}
            results["models"][name] = entry
            for row in _measured(denoiser, plans[name], earlier.get(name, {}), count, steps, bar):
                entry["rows"].append(row)
                write_json(folder, results)
    write_report(folder, results)
    return results


def _measured(denoiser: Denoiser, plans: dict[Variant, list[Plan | None]], earlier: dict, count: int, steps: int, bar):
    """The rows one by one. Plans with the same table are run once."""
    shape = (denoiser.model.channels, denoiser.model.size, denoiser.model.size)
    noise, label = sample_noise(0, range(count), shape), labels_of(range(count), list(range(denoiser.model.classes)))

    def sample(plan: Plan) -> torch.Tensor:
        return plan.sample(denoiser, noise, label=label, callback=lambda *_: bar.advance())

    bar.note(f"the exact solution: {steps} steps")
    truth, errors, rows = sample(solvers.unipc(denoiser.schedule, steps)), {}, []
    for variant, row_plans in plans.items():
        if variant.name in earlier:
            rows.append(earlier[variant.name])
            yield rows[-1]
            continue
        bar.note(variant.name)
        tables = [None if plan is None else repr((plan.start, plan.stages, plan.output)) for plan in row_plans]
        for plan, table in zip(row_plans, tables, strict=True):
            if plan is not None and table not in errors:
                errors[table] = _error(sample, plan, truth)
        row = {
            "name": variant.name,
            "kind": variant.kind,
            "solver": variant.solver,
            "options": variant.options,
            "calls": [None if plan is None else plan.calls for plan in row_plans],
            "steps": [None if plan is None else plan.steps for plan in row_plans],
            "rmse": [None if table is None else errors[table] for table in tables],
        }
        twin = next((r["name"] for r in rows if "note" not in r and _same(r, row)), None)
        rows.append(row if twin is None else {**row, "note": f"here the same samples as {twin}"})
        yield rows[-1]


def _same(a: dict, b: dict) -> bool:
    """Whether two rows are one method: as many calls everywhere, and errors that differ by rounding alone."""
    pairs = list(zip(a["rmse"], b["rmse"], strict=True))
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    alike = all((x is None) == (y is None) for x, y in pairs)
    return a["calls"] == b["calls"] and alike and all(math.isclose(x, y, rel_tol=1e-4) for x, y in known)


def _error(sample, plan: Plan, truth: torch.Tensor) -> float | None:
    """None where the solver diverged to NaN or infinity."""
    try:
        return rmse(sample(plan), truth)
    except FloatingPointError:
        return None


def _work(earlier: dict, plans: dict[Variant, list[Plan | None]]) -> int:
    """Stages to run, for the bar."""
    tables = {
        repr((plan.start, plan.stages, plan.output)): len(plan.stages)
        for variant, row_plans in plans.items()
        if variant.name not in earlier
        for plan in row_plans
        if plan is not None
    }
    return sum(tables.values())


def _earlier(folder: Path, results: dict) -> dict[str, dict[str, dict]]:
    """Rows of an earlier run with the same settings, by model and name; ValueError when the settings differ."""
    path = folder / "results.json"
    if not path.exists():
        return {}
    old = json.loads(path.read_text())
    if any(old.get(key) != results[key] for key in ("settings", "calls")):
        raise ValueError(f"{path} was measured with other settings; run without --resume, or with another --out")
    return {name: {row["name"]: row for row in entry["rows"]} for name, entry in old["models"].items()}
