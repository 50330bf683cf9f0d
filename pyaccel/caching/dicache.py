"""DiCache (Bu et al. 2025, arXiv 2508.17356)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .attaching import attach
from .engine import Cache
from .how import How, reuse
from .moment import Moment
from .ranges import first_blocks, spans
from .when import positive, whole_number


@dataclass(frozen=True)
class Shallow:
    """Predicts while the changes of the probe from step to step add up to less than ``threshold``."""

    threshold: float
    warmup: int

    def __call__(self, moment: Moment) -> bool:
        """Whether the step is computed in full."""
        added = moment.memory.get("added", 0.0) + moment.change("previous")
        full = moment.step < self.warmup or not added < self.threshold
        moment.memory["added"] = 0.0 if full else added
        return full


def _aligned(moment: Moment, count: int) -> list[float]:
    """R_2 + γ·(R_1 − R_2) for the last two residuals R_1, R_2, with γ = ‖p − p_2‖/‖p_1 − p_2‖ of the probe's p, held
    between 1 and 1.5 (eq. 9)."""
    newer, older = moment.before("computed"), moment.before("older")
    if count < 2 or newer is None or older is None or older.shape != moment.probe.shape:
        return [1.0]
    p, p1, p2 = moment.probe.float(), newer.float(), older.float()
    gamma = float((p - p2).abs().mean() / (p1 - p2).abs().mean().clamp_min(1e-12))
    gamma = min(max(gamma, 1.0), 1.5)
    return [gamma, 1 - gamma]


def dicache(
    model: nn.Module, depth: int = 1, threshold: float = 0.2, warmup: int = 3, steps: int | None = None, **settings
) -> Cache:
    """A few shallow blocks are computed in every step, say when to compute the others, and how their residual moves on.

    Args:
        model: a transformer with lists of blocks.
        depth: how many blocks are the probe.
        threshold: of the sum of the probe's relative changes since the last full step.
        warmup: full steps at the start.
        steps: of a run, where nothing announces a StepContext and the times say nothing.
        settings: ``memory``, ``offload`` and ``group``, as in :func:`pyaccel.caching.attach`.

    Two numbers a step are read from the device.
    """
    whole_number("depth", depth), whole_number("warmup", warmup)
    positive("threshold", threshold)
    how = How(1, 0, reuse().weights, _aligned)
    where = spans(model, depth, probe=first_blocks(model, depth))
    return attach(f"dicache(depth={depth}, threshold={threshold})", model, where=where,
                  when=Shallow(threshold, warmup), how=how, steps=steps, **settings)  # fmt: skip
