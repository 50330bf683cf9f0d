"""``pyaccel demo``: one trained model, sampled by fewer steps, by cheaper steps and by both, measured here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import __version__, caching, solvers, zoo
from ..caching import Cache
from ..denoiser import Denoiser
from ..ops.backend import fast_bfloat16
from ..progress import progress_bar
from ..solvers import Plan
from ..training.record import machine_of
from .quality import rmse
from .report import write_report
from .sampling import BATCH, columns_of, fashion_quality, fashion_reference, generate

MODEL = "fashion-dit"
REFERENCE_STEPS = 200
SDE_STEPS = 250
TRAINED = ("gs-4", "gas-4", "gas-6")
BASELINE = "Euler, 50 steps"
SIZES = {False: (1000, 250), True: (200, 50)}  # quick or not: images a row, images for RMSE
WARM_UP = BATCH


@dataclass(frozen=True)
class Method:
    """One row: a plan and, with it, an optional cache."""

    name: str
    family: str
    plan: Plan
    cache: Callable[[], Cache] | None = None
    model: str = MODEL

    @property
    def follows(self) -> bool:
        """Whether it solves the ODE of the demo's model, so that its samples can be compared with the solution."""
        return self.model == MODEL and not self.plan.stochastic


def methods(denoiser: Denoiser, full: bool = False) -> list[Method]:
    """The demo's rows; each cached row beside UniPC with as many full calls and no cache.

    With ``full`` two rows of the SDE come first. They have no RMSE, as they do not follow the ODE.
    """
    schedule, model = denoiser.schedule, denoiser.model

    def row(name, family, solver, steps, interval=0) -> Method:
        plan = solvers.from_name(solver)(schedule, steps)
        # With so few steps a straight line from the first step on is nearest to the run without a cache.
        cache = (lambda: caching.taylorseer(model, interval, order=1, warmup=1)) if interval else None
        return Method(name, family, plan, cache)

    trained = [
        Method(f"{name.split('-')[0].upper()}, {name.split('-')[1]} steps, trained", "few steps", zoo.plan(MODEL, name))
        for name in TRAINED
        if name in zoo.plan_names(MODEL)
    ]
    students = [
        Method(
            f"{name.removeprefix(f'{MODEL}-')} student, {steps} step{'s' if steps > 1 else ''}", "students",
            zoo.student_plan(name, steps), model=name,
        )
        for name in zoo.students(MODEL)
        for steps in (1, 2)
    ]  # fmt: skip
    sde = [
        row(f"Euler–Maruyama, {SDE_STEPS} steps", "SDE", "euler_maruyama", SDE_STEPS),
        row(f"DDPM, {SDE_STEPS} steps", "SDE", "ddpm", SDE_STEPS),
    ]
    return [
        *(sde if full else []),
        row(BASELINE, "baseline", "euler", 50),
        row("Euler, 10 steps", "few steps", "euler", 10),
        row("DPM-Solver++(2M), 10 steps", "few steps", "dpmpp", 10),
        row("UniPC, 8 steps", "few steps", "unipc", 8),
        row("UniPC, 20 steps + TaylorSeer every 3rd", "caching", "unipc", 20, interval=3),
        row("UniPC, 7 steps (as many full calls)", "few steps", "unipc", 7),
        row("UniPC, 20 steps + TaylorSeer every 5th", "caching", "unipc", 20, interval=5),
        row("UniPC, 4 steps (as many full calls)", "few steps", "unipc", 4),
        row("UniPC, 10 steps + TaylorSeer every 2nd", "caching", "unipc", 10, interval=2),
        row("UniPC, 5 steps (as many full calls)", "few steps", "unipc", 5),
        *trained,
        *students,
    ]


def run(
    folder: str | os.PathLike, *, quick: bool = False, full: bool = False, seed: int = 0, progress: bool = True
) -> dict:
    """Samples every row, measures it, writes the report into ``folder`` and returns the results.

    1000 images a row and RMSE on the first 250 of them; with ``quick`` 200 and 50. ``full`` adds
    solvers of the SDE with many steps, where the way to few steps began. Nothing is written before all is
    measured, so an interruption leaves an earlier report as it was.
    """
    count, exact = SIZES[quick]
    dtype = torch.bfloat16 if fast_bfloat16() else torch.float32
    denoiser, precise = zoo.load(MODEL, dtype=dtype), zoo.load(MODEL, dtype=torch.float32)
    fashion_reference()  # loaded before anything is timed
    rows, pictures = [], {}
    table = methods(denoiser, full)
    reference_plan = solvers.unipc(precise.schedule, REFERENCE_STEPS)
    units = count * sum(m.plan.calls for m in table) + exact * reference_plan.calls
    with progress_bar("demo", units, progress) as bar:
        bar.note("warming up")
        generate(denoiser, solvers.ddim(denoiser.schedule, 2), WARM_UP, seed=seed + 1)
        bar.note(f"the exact solution: {REFERENCE_STEPS} steps")
        truth = generate(precise, reference_plan, exact, seed=seed, bar=_Scaled(bar, reference_plan.calls)).images
        for method in table:
            bar.note(method.name)
            cache = method.cache() if method.cache else None
            sampled = denoiser if method.model == MODEL else zoo.load(method.model, dtype=dtype)
            samples = generate(sampled, method.plan, count, seed=seed, cache=cache, bar=_Scaled(bar, method.plan.calls))
            row = {"name": method.name, "family": method.family, **columns_of(samples, fashion_quality(samples))}
            rows.append(row | {"rmse": None if not method.follows else rmse(samples.images[:exact], truth)})
            pictures[method.name] = samples.images[:20]
    baseline = next((row for row in rows if row["name"] == BASELINE), rows[0])
    for row in rows:
        row["speedup"] = baseline["seconds"] / row["seconds"]
    results = {
        "title": "pyaccel demo: a diffusion transformer on Fashion-MNIST",
        "machine": machine_of(torch.device("cpu")),
        "settings": {
            "model": MODEL,
            "images per row": count,
            "images for RMSE": exact,
            "network": str(dtype).removeprefix("torch."),
            "batch": BATCH,
            "seed": seed,
            "pyaccel": __version__,
        },
        "baseline": baseline["name"],
        "rows": rows,
    }
    write_report(Path(folder), results, pictures)
    return results


class _Scaled:
    """Advances a bar by several units for each image."""

    def __init__(self, bar, units: int):
        self._bar, self._units = bar, units

    def advance(self, images: int) -> None:
        """``images`` more are done."""
        self._bar.advance(images * self._units)
