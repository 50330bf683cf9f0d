"""The fused step inside of ``torch.compile``: one opaque operator, so that no graph breaks and no step is compiled anew.

The operator takes the tensors and knows its scheduler by a number; which step it is, the scheduler counts. It has to be
run in order, as any scheduler's steps, so it is not for CUDA graphs, and is marked so. What the scheduler remembers are
copies of what came in: a compiler writes over its buffers.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

_schedulers: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_numbers = itertools.count()


def number_of(scheduler) -> int:
    """The number by which the operator knows a scheduler."""
    track = scheduler._pyaccel
    if track.number is None:
        track.number = next(_numbers)
        _schedulers[track.number] = track
    return track.number
