"""Where a cache sits: the parts of a model whose outputs it may replace."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..models.layers import GatedBranch


def branches(model_or_blocks: nn.Module | Iterable[nn.Module]) -> list[GatedBranch]:
    """Every attention and MLP branch of a DiT, or of some of its blocks, in the order of computation.

    Raises ValueError when there is none.
    """
    roots = [model_or_blocks] if isinstance(model_or_blocks, nn.Module) else list(model_or_blocks)
    if not all(isinstance(root, nn.Module) for root in roots):
        raise TypeError("expected a model or a list of its blocks, all torch modules")
    found = [m for root in roots for m in root.modules() if isinstance(m, GatedBranch)]
    if not found:
        names = ", ".join(type(root).__name__ for root in roots) or "nothing"
        raise ValueError(
            f"{names} has no gated branches to cache; a branch is a pyaccel.models.layers.GatedBranch, as in "
            "pyaccel.models.DiT"
        )
    return found
