"""Measuring: samples by every cache, in pairs with the uncached run, and by solvers with as many full calls."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from ... import __version__, caching, solvers, zoo
from ...progress import progress_bar
from ...seeding import sample_noise
from ...solvers import Plan
from ..figures import THEMES
from ..heat_map import heat_map
from ..paired import paired_change
from ..quality import classify, rmse
from ..report import write_report
from ..sampling import BATCH, Samples, fashion_quality, fashion_reference, generate, labels_of
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
    real = fashion_reference()[1].moments
    rows, pictures, marks = [], {}, {}
    with progress_bar("bench", count * (len(rows_of_caches) + 11), progress) as bar:
        bar.note("calibration")
        calibration = _calibrated(denoiser, plan)
        generate(denoiser, plan, min(count, BATCH), seed=1)  # a warm-up
        bar.note("uncached")
        base = generate(denoiser, plan, count, bar=bar)
        base_features = _features(base)
        name = f"{solver} {steps}, uncached"
        rows.append(_row(name, "baseline", base, base, None))
        pictures[name] = base.images[:20]
        for variant in rows_of_caches:
            bar.note(variant.name)
            cache = variant.make(denoiser.model, calibration)
            samples, summary = generate(denoiser, plan, count, cache=cache, bar=bar), cache.summary()
            change = paired_change(_features(samples), base_features, real)
            note = f"FID {change}; {summary.peak_bytes / 2**20:.1f} MiB; {summary.saved:.0%} of the work left out"
            rows.append(_row(variant.name, "caching", samples, base, note))
            marks[variant.name] = _share_computed(summary, steps)
            pictures[variant.name] = samples.images[:20]
        for calls in rivals([row["full_calls"] for row in rows[1:]], steps):
            for other in dict.fromkeys((solver, "unipc")):
                fewer = solvers.from_name(other)(denoiser.schedule, calls)
                bar.note(f"{other} {calls}")
                samples = generate(denoiser, fewer, count, bar=bar)
                change = paired_change(_features(samples), base_features, real)
                rows.append(_row(f"{other} {calls}, no cache", "few steps", samples, base, f"FID {change}"))
    for row in rows:
        row["speedup"] = rows[0]["seconds"] / row["seconds"]
    results = {
        "title": f"pyaccel bench: caches on {model}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
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
    if marks:
        for theme in THEMES:
            path = Path(folder, "steps.png" if theme == "light" else f"steps-{theme}.png")
            heat_map(path, list(marks.values()), list(marks), "Share of the sites that are computed", theme)
    return results


def _calibrated(denoiser, plan: Plan) -> caching.Calibration:
    """Of two small batches with other seeds than those that are measured."""
    model = denoiser.model
    shape, labels = (model.channels, model.size, model.size), labels_of(range(8), list(range(model.classes)))

    def sample(seed: int):
        return lambda: plan.sample(denoiser, sample_noise(seed, range(8), shape), label=labels)

    return caching.calibrate(model, [sample(101), sample(102)])


def _features(samples: Samples) -> torch.Tensor:
    return classify(fashion_reference()[0], samples.images)[0].double()


def _row(name: str, family: str, samples: Samples, base: Samples, note: str | None) -> dict:
    quality = fashion_quality(samples)
    row = {
        "name": name,
        "family": family,
        "model_calls": samples.model_calls,
        "full_calls": samples.full_calls,
        "seconds": samples.seconds,
        "fid": quality.fid,
        "precision": quality.precision,
        "recall": quality.recall,
        "accuracy": quality.accuracy,
        "rmse": rmse(samples.images, base.images),
    }
    return row if note is None else {**row, "note": note}


def _share_computed(summary: caching.Summary, steps: int) -> list[float]:
    """For each step the share of the sites that were computed."""
    shares = [0.0] * steps
    for step, (computed, predicted) in enumerate(zip(summary.computed, summary.predicted, strict=True)):
        shares[step] = sum(computed) / max(1, sum(computed) + sum(predicted))
    return shares
