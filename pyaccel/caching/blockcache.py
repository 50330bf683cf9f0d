"""BlockCache (Wimbauer et al. 2024, arXiv 2312.03209)."""

from __future__ import annotations

import os
from dataclasses import replace

from torch import nn

from .attaching import attach
from .calibration import Calibration
from .engine import Cache
from .how import reuse
from .scale_shift import ScaleShift
from .when import every, mask
from .where import branches


def blockcache(
    model: nn.Module,
    calibration: Calibration | str | os.PathLike,
    delta: float = 0.5,
    scale_shift: ScaleShift | str | os.PathLike | None = None,
    steps: int | None = None,
    **settings,
) -> Cache:
    """Each branch has a schedule of its own: it is computed when the calibrated changes since then add up to ``delta``.

    Args:
        model: any that :func:`pyaccel.caching.branches` recognises.
        calibration: of this model (:func:`pyaccel.caching.calibrate`) with as many steps, or its file.
        delta: the larger, the fewer computations; 0.5 in the paper for a latent diffusion U-Net.
        scale_shift: what reused features lack (:func:`pyaccel.caching.fit_scale_shift` with the same ``delta``), or its
            file.
        steps: of a run, where nothing announces a StepContext and the times say nothing.
        settings: ``memory``, ``offload`` and ``group``, as in :func:`pyaccel.caching.attach`.

    Raises ValueError for another model's calibration.
    """
    found = Calibration.of(calibration, model)
    if found is None:
        raise TypeError(f"calibration must be a caching.Calibration or its file, got {type(calibration).__name__}")
    schedule = found.schedule(delta)
    rules = {tuple(due): mask(due) for due in schedule}  # sites of one schedule share a rule
    if scale_shift is not None and not isinstance(scale_shift, ScaleShift):
        scale_shift = ScaleShift.load(scale_shift)
    where = [
        replace(site, when=rules[tuple(due)], adjust=None if scale_shift is None else scale_shift.of(site.name))
        for site, due in zip(branches(model), schedule, strict=True)
    ]
    return attach(f"blockcache(delta={delta})", model, where=where, when=every(1), how=reuse(), steps=steps, **settings)
