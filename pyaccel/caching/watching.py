"""A cache that computes everything and looks on: each feature beside one that was kept before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .engine import Cache
from .features import History
from .how import reuse
from .storage import Raw
from .where import Site


class Watching(Cache):
    """Below it, :meth:`seen` says what is done with a feature."""

    def __init__(self, method: str, model: nn.Module, where: list[Site], steps: int | None = None):
        super().__init__(method, model, where, lambda moment: True, reuse(), steps=steps)

    def seen(self, step: int, index: int, kept: torch.Tensor | None, now: torch.Tensor) -> bool:
        """Site ``index`` has computed ``now`` at ``step``; ``kept`` is what was kept before, if it has that shape.

        Returns whether ``now`` is kept instead.
        """
        raise NotImplementedError

    def watch(self, runs: Sequence[Callable[[], Any]]) -> None:
        """Looks on while ``runs`` sample with the model."""
        with self, torch.no_grad():
            for run in runs:
                run()

    def _history(self, session, index, occurrence) -> History:
        history = super()._history(session, index, occurrence)
        if type(history.storage) is Raw:
            history.storage = _Watched(lambda kept, now: self.seen(session.step, index, kept, now))
        return history


class _Watched(Raw):
    """Shows each new feature (its first tensor) beside the one that was kept."""

    __slots__ = ("_kept", "_seen")

    def __init__(self, seen: Callable[[torch.Tensor | None, torch.Tensor], bool]):
        super().__init__()
        self._seen, self._kept = seen, None

    def push(self, leaves: list, room: int, *, replace: bool, copies: bool) -> None:
        """As in Raw."""
        now = next((x for x in leaves if isinstance(x, torch.Tensor) and x.is_floating_point()), None)
        if now is not None and not replace:
            kept = self._kept if self._kept is not None and self._kept.shape == now.shape else None
            if self._seen(kept, now):
                self._kept = now.clone()  # the model may write into it
        super().push(leaves, room, replace=replace, copies=copies)
