"""Measuring: samples by every cache, in pairs with the uncached run, and by solvers with as many full calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from ... import __version__, caching, solvers, zoo
from ...progress import progress_bar
from ...seeding import sample_noise
from ...solvers import Plan
from ...training.record import machine_of
from ..heat_map import heat_map
from ..paired_table import Measured, PairedTable
from ..report import write_report
from ..sampling import BATCH, generate, labels_of
from .variants import Variant, rivals, variants

COUNT, QUICK = 2000, 100
_EXPLANATIONS = {
    "rmse": "The root mean square difference, per pixel in [−1, 1], to the uncached run from the same noise.",
    "full_calls": "The calls that computed every part of the network. A method that leaves parts out in all of its "
    "calls, each by a schedule of its own, may have one such call alone: look at its seconds.",
}


def run(
    folder: str | os.PathLike,
    model: str = "fashion-dit",
    *,
    solver: str = "euler",
    steps: int = 50,
    count: int | None = None,
    only: Sequence[str] | None = None,
    quick: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> dict:
    """Measures; writes report.html, pictures and results.json into ``folder`` and returns the results.

    Args:
        model: of the zoo.
        solver, steps: of the uncached run and of every cache.
        count: images of each row, of the same noise and labels; default 2000, and 100 if ``quick``.
        only: names of methods; all by default.
        resume: keep the rows that an earlier run in ``folder`` has measured with the same settings.

    Raises ValueError for unknown names, before anything is measured. results.json is written after each row.
    """
    denoiser = zoo.load(model)
    rows_of_caches = variants(denoiser.model, only)
    count = count if count is not None else QUICK if quick else COUNT
    plan = solvers.from_name(solver)(denoiser.schedule, steps)
    uncached = f"{solver} {steps}, uncached"
    results = {
        "title": f"pyaccel bench: caches on {model}",
        "machine": machine_of(torch.device("cpu")),
        "settings": {
            "model": model,
            "solver": f"{solver}, {steps} steps",
            "images per row": count,
            "network": "float32",
            "batch": BATCH,
            "pyaccel": __version__,
        },
        "explanations": _EXPLANATIONS,
        "baseline": uncached,
        "rows": [],
    }
    with progress_bar("bench", count * (len(rows_of_caches) + 11), progress) as bar:
        table = PairedTable(folder, results, count, bar, resume)
        generate(denoiser, plan, min(count, BATCH), seed=1)  # a warm-up
        calibration = cache(lambda: _calibrated(denoiser, plan, bar))

        def without_cache(plan: Plan) -> Measured:
            return Measured(generate(denoiser, plan, count, bar=bar))

        def cached(variant: Variant) -> Measured:
            made = variant.make(denoiser.model, calibration() if variant.calibrated else None)
            samples, summary = generate(denoiser, plan, count, cache=made, bar=bar), made.summary()
            note = f"; {summary.peak_bytes / 2**20:.1f} MiB; {summary.saved:.0%} of the work left out"
            return Measured(samples, note, {"computed": torch.tensor(_share_computed(summary, steps))})

        table.add(uncached, lambda: without_cache(plan), family="baseline")
        for variant in rows_of_caches:
            table.add(variant.name, lambda v=variant: cached(v), family="caching")
        for calls in rivals([row["full_calls"] for row in table.rows[1:]], steps):
            for other in dict.fromkeys((solver, "unipc")):
                fewer = solvers.from_name(other)(denoiser.schedule, calls)
                name = f"{other} {calls}, no cache"
                table.add(name, lambda p=fewer: without_cache(p), family="few steps")
    shown = dict(list(table.pictures.items())[:: max(1, len(table.pictures) // 12)])
    write_report(folder, results, shown)
    marks = {variant.name: table.more[variant.name]["computed"].tolist() for variant in rows_of_caches}
    heat_map(Path(folder, "steps.png"), list(marks.values()), list(marks), "Share of the sites that are computed")
    return results


def _calibrated(denoiser, plan: Plan, bar) -> caching.Calibration:
    """Of two small batches with other seeds than those that are measured."""
    bar.note("calibration")
    model = denoiser.model
    shape, labels = (model.channels, model.size, model.size), labels_of(range(8), list(range(model.classes)))

    def sample(seed: int):
        return lambda: plan.sample(denoiser, sample_noise(seed, range(8), shape), label=labels)

    return caching.calibrate(model, [sample(101), sample(102)])


def _share_computed(summary: caching.Summary, steps: int) -> list[float]:
    """For each step the share of the sites that were computed."""
    shares = [0.0] * steps
    for step, (computed, predicted) in enumerate(zip(summary.computed, summary.predicted, strict=True)):
        shares[step] = sum(computed) / max(1, sum(computed) + sum(predicted))
    return shares
