"""The figures of a student: quality at one, two and four calls, with intervals."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..progress import progress_bar
from ..solvers import Plan
from .frechet import frechet_distance
from .paired import bootstrap
from .quality import class_accuracy, classify
from .sampling import fashion_reference, generate

CALLS = (1, 2, 4)
SHOWN = 50


def student_figures(
    student: Denoiser, plan: Callable[[int], Plan], count: int, progress: bool = True
) -> tuple[dict[str, float | list[float]], Tensor]:
    """({name: figure}, pictures of one, two and four calls); ``plan(calls)`` is how the student is sampled.

    FID has its 95 % interval from a bootstrap; accuracy is the share of samples that are recognised as their label.
    """
    classifier, reference = fashion_reference()
    figures: dict[str, float | list[float]] = {}
    pictures = []
    with progress_bar("figures of the student", count * len(CALLS), progress) as bar:
        for calls in CALLS:
            samples = generate(student, plan(calls), count, bar=bar)
            pictures.append(samples.images[:SHOWN])
            key = f"{calls} call{'s' if calls > 1 else ''}"
            if not torch.isfinite(samples.images).all():
                figures[f"fid, {key}"] = float("nan")
                continue
            features, logits = classify(classifier, samples.images)
            fid = bootstrap(lambda drawn, f=features: frechet_distance(f[drawn], reference.moments), count)
            figures[f"fid, {key}"] = round(fid.value, 3)
            figures[f"interval, {key}"] = [round(fid.low, 3), round(fid.high, 3)]
            figures[f"accuracy, {key}"] = round(class_accuracy(logits, samples.labels), 3)
    return figures, torch.cat(pictures)
