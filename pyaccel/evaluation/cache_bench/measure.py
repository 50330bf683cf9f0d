"""Measuring: samples by every cache, in pairs with the uncached run, and by solvers with as many full calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from ... import __version__, caching, solvers, zoo
from ...progress import progress_bar
from ...seeding import sample_noise
from ...solvers import Plan
from ...training.record import machine_of
from ..heat_map import heat_map
from ..paired import paired_change
from ..quality import classify, judge, rmse
from ..report import write_report
from ..sampling import BATCH, Samples, columns_of, fashion_reference, generate, labels_of
from .variants import rivals, variants

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
    progress: bool = True,
) -> dict:
    """Measures; writes report.html, pictures and results.json into ``folder`` and returns the results.

    Args:
        model: of the zoo.
        solver, steps: of the uncached run and of every cache.
        count: images of each row, of the same noise and labels; default 2000, and 100 if ``quick``.
        only: names of methods; all by default.

    Raises ValueError for unknown names, before anything is measured. Nothing is written before all is measured.
    """
    denoiser = zoo.load(model)
    rows_of_caches = variants(denoiser.model, only)
    count = count if count is not None else QUICK if quick else COUNT
    plan = solvers.from_name(solver)(denoiser.schedule, steps)
    table, marks = _Table(), {}
    with progress_bar("bench", count * (len(rows_of_caches) + 11), progress) as bar:
        calibration = None
        if any(variant.calibrated for variant in rows_of_caches):
            bar.note("calibration")
            calibration = _calibrated(denoiser, plan)
        generate(denoiser, plan, min(count, BATCH), seed=1)  # a warm-up
        bar.note("uncached")
        table.add(f"{solver} {steps}, uncached", "baseline", generate(denoiser, plan, count, bar=bar))
        for variant in rows_of_caches:
            bar.note(variant.name)
            cache = variant.make(denoiser.model, calibration)
            samples, summary = generate(denoiser, plan, count, cache=cache, bar=bar), cache.summary()
            facts = f"; {summary.peak_bytes / 2**20:.1f} MiB; {summary.saved:.0%} of the work left out"
            table.add(variant.name, "caching", samples, facts)
            marks[variant.name] = _share_computed(summary, steps)
        for calls in rivals([row["full_calls"] for row in table.rows[1:]], steps):
            for other in dict.fromkeys((solver, "unipc")):
                fewer = solvers.from_name(other)(denoiser.schedule, calls)
                bar.note(f"{other} {calls}")
                table.add(f"{other} {calls}, no cache", "few steps", generate(denoiser, fewer, count, bar=bar))
    rows, pictures = table.rows, table.pictures
    for row in rows:
        row["speedup"] = rows[0]["seconds"] / row["seconds"]
    results = {
        "title": f"pyaccel bench: caches on {model}",
        "machine": machine_of(torch.device("cpu")),
        "settings": {
            "model": model,
            "images per row": count,
            "network": "float32",
            "batch": BATCH,
            "pyaccel": __version__,
        },
        "explanations": _EXPLANATIONS,
        "baseline": rows[0]["name"],
        "rows": rows,
    }
    shown = dict(list(pictures.items())[:: max(1, len(pictures) // 12)])
    write_report(folder, results, shown)
    heat_map(Path(folder, "steps.png"), list(marks.values()), list(marks), "Share of the sites that are computed")
    return results


def _calibrated(denoiser, plan: Plan) -> caching.Calibration:
    """Of two small batches with other seeds than those that are measured."""
    model = denoiser.model
    shape, labels = (model.channels, model.size, model.size), labels_of(range(8), list(range(model.classes)))

    def sample(seed: int):
        return lambda: plan.sample(denoiser, sample_noise(seed, range(8), shape), label=labels)

    return caching.calibrate(model, [sample(101), sample(102)])


class _Table:
    """The rows so far; all but the first, which is the uncached run, stand in pairs with that."""

    def __init__(self):
        self.rows: list[dict] = []
        self.pictures: dict[str, torch.Tensor] = {}
        self._classifier, self._reference = fashion_reference()

    def add(self, name: str, family: str, samples: Samples, facts: str = "") -> None:
        """A row of these samples, with its change against the first one and further ``facts`` in a note."""
        features, logits = classify(self._classifier, samples.images)
        row = {"name": name, "family": family}
        row |= columns_of(samples, judge(features, logits, samples.labels, self._reference))
        if not self.rows:
            self._base, self._base_features = samples.images, features
        else:
            row["note"] = f"FID {paired_change(features, self._base_features, self._reference.moments)}{facts}"
        self.rows.append(row | {"rmse": rmse(samples.images, self._base)})
        self.pictures[name] = samples.images[:20]


def _share_computed(summary: caching.Summary, steps: int) -> list[float]:
    """For each step the share of the sites that were computed."""
    shares = [0.0] * steps
    for step, (computed, predicted) in enumerate(zip(summary.computed, summary.predicted, strict=True)):
        shares[step] = sum(computed) / max(1, sum(computed) + sum(predicted))
    return shares
