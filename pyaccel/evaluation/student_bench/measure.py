"""Measuring: samples of every row from the same noise and labels, with intervals and paired changes of the FID."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from ... import __version__, zoo
from ...progress import progress_bar
from ...solvers import files
from ...training.record import machine_of
from ..paired_table import Measured, PairedTable
from ..report import Drawing, write_report
from ..sampling import BATCH, fashion_reference, generate
from ..tuning import zoo_denoiser
from .figure import calls_figure
from .variants import CacheChoice, Row, rows

CALLS, COUNT, QUICK = (1, 2, 3, 4, 6, 8), 2000, 100
_EXPLANATIONS = {
    "rmse": "The root mean square difference, per pixel in [−1, 1], to the teacher with many calls from the same "
    "noise. A student of its distribution need not be near; one that adds noise on its way has none.",
}


def run(
    folder: str | os.PathLike,
    model: str = "fashion-dit",
    *,
    calls: Sequence[int] = CALLS,
    only: Sequence[str] | None = None,
    students: Sequence[str] | None = None,
    plans: Mapping[str, Sequence[str]] | None = None,
    cache: CacheChoice | None = None,
    teacher_steps: int = 20,
    count: int | None = None,
    device: str = "cpu",
    quick: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> dict:
    """Measures; writes report.html, pictures and results.json into ``folder`` and returns the results.

    Args:
        model: the teacher, of the zoo; calls, only, students, plans, cache, teacher_steps: see :func:`.variants.rows`.
        count: images of each row, of the same noise and labels; default 2000, and 100 if ``quick``.
        resume: keep the rows that an earlier run in ``folder`` has measured with the same settings.

    Raises ValueError for unknown names, before anything is measured. results.json is written after each row.
    """
    count = count if count is not None else QUICK if quick else COUNT
    if not calls or min(calls) < 1:
        raise ValueError(f"calls must be numbers from 1 on, got {list(calls)}")
    teacher = zoo_denoiser(model, device)
    table_rows = rows(model, teacher.schedule, calls, only, students, plans, cache, teacher_steps)
    place = next(teacher.model.parameters()).device
    fashion_reference()[0].to(place)
    results = {
        "title": f"pyaccel bench: students of {model}",
        "machine": machine_of(place),
        "settings": {
            "teacher": model, "images per row": count, "seed": 0, "network": "float32", "batch": BATCH,
            "device": device, "pyaccel": __version__,
        },
        "explanations": _EXPLANATIONS,
        "baseline": table_rows[0].name,
    }  # fmt: skip
    load = lru_cache(maxsize=2)(lambda name: teacher if name == model else zoo.load(name, device=place))
    with progress_bar("bench", count * len(table_rows), progress) as bar:
        table = PairedTable(Path(folder), results, count, bar, resume)
        generate(teacher, table_rows[0].plan, min(count, BATCH), seed=1)  # a warm-up
        for row in table_rows:

            def measured(row: Row = row) -> Measured:
                denoiser = load(row.model)
                cached = None if row.cache is None else row.cache.make(denoiser.model)
                samples = generate(denoiser, row.plan, count, cache=cached, bar=bar)
                return Measured(
                    samples, "" if cached is None else f"; {cached.summary().saved:.0%} of the work left out"
                )

            table.add(row.name, measured, against=row.against, facts=_facts(row), follows=row.follows, **row.columns)
    drawing = Drawing(
        "calls",
        "Quality against model calls",
        "Lower left is better. Bars: 95 % intervals. Cached rows stand at their full calls.",
        "FID of each method against its model calls",
        lambda path, theme: calls_figure(path, results, theme),
    )
    shown = [row for row in table.rows if row["family"] != "few steps" or row["model_calls"] in (2, 4)]
    write_report(folder, results, {row["name"]: table.pictures[row["name"]] for row in shown}, [drawing])
    return results


def _facts(row: Row) -> list:
    """What decides a row: the weights, the plan and the cache."""
    digest = hashlib.sha256(zoo.weights(row.model).read_bytes()).hexdigest()
    plan = json.loads(json.dumps(files.to_data(row.plan)))
    return [digest, plan, None if row.cache is None else [row.cache.method, dict(row.cache.options)]]
