"""EasyCache (Zhou et al. 2025, arXiv 2507.02860)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .attaching import attach
from .engine import Cache
from .how import reuse
from .moment import Moment
from .when import positive
from .where import Probe, Site


@dataclass(frozen=True)
class Transformation:
    """Predicts while the estimated changes of the model's output add up to less than ``threshold``.

    The estimate is k·mean|Δx| / mean|v|, x the model's input, v its last output and k = mean|Δv|/mean|Δx| as it was
    between the last two full steps (section 3.2). The first ``warmup`` steps are computed in full.
    """

    threshold: float
    warmup: int

    def __call__(self, moment: Moment) -> bool:
        """Whether the step is computed in full."""
        memory, now, before = moment.memory, moment.probe, moment.before("previous")
        full = True
        if "rate" in memory and before is not None and before.shape == now.shape and moment.step >= self.warmup:
            moved = float((now.float() - before.float()).abs().mean())
            added = memory.get("added", 0.0) + memory["rate"] * moved / memory["size"]
            full = not added < self.threshold or moment.step + 1 == moment.steps
            memory["added"] = added
        if full:
            memory["added"] = 0.0
        return full

    def computed(self, moment: Moment, output: torch.Tensor) -> None:
        """A full step is over."""
        memory, x = moment.memory, moment.probe
        if memory.get("output") is not None and memory["output"].shape == output.shape:
            moved = float((x.float() - memory["input"].float()).abs().mean())
            if moved > 0:
                memory["rate"] = float((output.float() - memory["output"].float()).abs().mean()) / moved
        memory["input"], memory["output"] = x.detach().clone(), output.detach().clone()
        memory["size"] = max(float(output.float().abs().mean()), 1e-12)


def easycache(
    model: nn.Module, threshold: float = 0.05, warmup: int = 3, steps: int | None = None, **settings
) -> Cache:
    """Leaves the whole model out while its output is estimated to change little, adding what it added last.

    Args:
        model: any module whose output is like its first argument.
        threshold: of the sum of estimated relative changes; 0.025 to 0.1 in the paper.
        warmup: full steps at the start.
        steps: of a run, where nothing announces a StepContext.
        settings: ``memory``, ``offload`` and ``group``, as in :func:`pyaccel.caching.attach`.

    Two numbers a step are read from the device.
    """
    positive("threshold", threshold)
    where = [Site("the model", model, "model", residual=True, probe=Probe())]
    rule = Transformation(threshold, warmup)
    return attach(f"easycache(threshold={threshold})", model, where=where, when=rule, how=reuse(), steps=steps,
                  **settings)  # fmt: skip
