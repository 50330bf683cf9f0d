"""The default: what predicted best, for the least memory, in ``pyaccel bench caching``."""

from __future__ import annotations

from torch import nn

from .engine import Cache
from .ranges import blocks
from .taylorseer import taylorseer


def auto(
    model: nn.Module, interval: int = 4, order: int = 2, warmup: int = 3, steps: int | None = None, **settings
) -> Cache:
    """The quadratic through the last three full computations (Newton's form, in the number of the step).

    On a transformer of the output of its last block, so that a predicted step runs no block at all and three tensors
    are kept; on a U-Net, and where there is no list of blocks, of every branch. On the models of the zoo that is nearer
    to the uncached run than Taylor's differences, Hermite's or plain reuse, at every interval from 3 to 5, and the
    step is as good a coordinate as time and better than log-SNR.

    Args:
        model: any that :func:`pyaccel.caching.branches` recognises.
        interval: compute in full every ``interval``-th step.
        order: of the polynomial; the third is worse everywhere.
        warmup: full steps at the start.
        steps: of a run, where nothing announces a StepContext and the times say nothing.
        settings: as in :func:`pyaccel.caching.attach`.
    """
    try:
        blocks(model)
        where = "last_block"
    except ValueError:
        where = None
    return taylorseer(model, interval, order=order, warmup=warmup, steps=steps, where=where, how="newton", **settings)
