"""What is remembered of one site: the last full features, tensors or tuples, lists and dicts of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import torch
from torch.utils import _pytree

from .. import ops
from .how import How
from .storage import Raw


class History:
    """The last full features of one site, newest first, with their positions; ``depth`` differences can be formed.

    Features are kept as ``storage`` says (:mod:`pyaccel.caching.storage`). ``residual``: what is kept is the output
    minus the input that it belongs to, so that a prediction is the present input plus something.
    """

    __slots__ = (
        "_serial", "_shapes", "decided", "depth", "entry", "inputs", "last", "partners", "passing", "positions",
        "rebuild", "residual", "storage", "stubs",
    )  # fmt: skip

    def __init__(self, storage: Raw | None = None, residual: bool = False):
        self.storage = Raw() if storage is None else storage
        self.residual = residual
        self.positions: list[float] = []
        self.last = -1  # the step of the newest feature
        self.depth = 0
        self.inputs: list | None = None  # the shapes that the newest feature was computed for
        self.rebuild: Callable[[list], Any] | None = None
        self.stubs: dict[int, Any] = {}  # for each feeding module what it returns where the site is predicted
        self.entry: list = []  # in a model call: the tensors with which the site was entered
        self.partners: list[int | None] | None = None  # for each leaf of the feature the number of its input
        self.passing = False  # computed in this call, and not remembered
        self._serial, self._shapes = 0, None
        self.decided: bool | None = False  # whether the site is predicted in this call; None: a probe will tell

    def entered(self, session, args: tuple, kwargs: dict) -> bool:
        """Notes with what the site was entered in this model call of ``session``; False where that is done already."""
        if self._serial == session.serial:
            return False
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        for x in kwargs.values():
            if isinstance(x, torch.Tensor):
                tensors.append(x)  # noqa: PERF401
        self._serial, self._shapes = session.serial, [x.shape for x in tensors]
        if self.residual:
            self.entry = tensors
        return True

    @property
    def usable(self) -> bool:
        """Whether there is a feature for inputs of these shapes, and nobody has written into it."""
        return bool(self.positions) and self.inputs == self._shapes and self._intact()

    def push(self, step: int, position: float, feature: Any, how: How, copies: bool = False) -> None:
        """Remembers the full ``feature`` of ``step``."""
        leaves, self.rebuild = flatten(feature)
        if self.residual:
            leaves = self._minus_entry(leaves)
        self.inputs = self._shapes
        # Another resolution: nothing of before can be combined with it.
        if self.positions and not self.storage.like(leaves):
            self.forget()
        anew = self.positions and self.last == step  # computed again, as gradient checkpointing does
        if not anew:
            self.depth = min(how.order, self.depth + 1) if self.positions and step >= how.first else 0
        room = how.order + 1
        self.storage.push(leaves, room, replace=bool(anew), copies=copies)
        self.positions = [position, *(self.positions[1:] if anew else self.positions)][:room]
        self.last = step

    def forget(self) -> None:
        """Forgets every feature."""
        self.positions, self.depth = [], 0
        self.storage.clear()

    def _intact(self) -> bool:
        if self.storage.intact():
            return True
        self.forget()
        return False

    def weights(self, present: float, how: How, known: dict[tuple, list[float]]) -> list[float]:
        """The weights of the newest features at ``present``; those that other sites asked for are ``known``."""
        count = self.depth + 1
        if count == 1:
            return _REUSE
        positions = tuple(self.positions[:count])
        weights = known.get(positions)
        if weights is None:
            weights = known[positions] = how.weights(positions, present)
        return weights

    def predict(self, weights: list[float], adjust: Callable | None = None) -> Any:
        """The feature with these weights of the newest ones; ``adjust`` is applied to each tensor that was predicted
        (before the input is added)."""
        if self.partners is None or not self.residual:
            leaves = self.storage.combined(weights)
            if adjust is not None:
                leaves = [adjust(x) if isinstance(x, torch.Tensor) else x for x in leaves]
        else:
            added = [None if p is None else self.entry[p] for p in self.partners]
            leaves = self.storage.combined(weights, added)
            self.entry = []
        return self.rebuild(leaves)

    # -- residuals ----------------------------------------------------------------------------------------------------

    def _minus_entry(self, leaves: list) -> list:
        if self.partners is None or len(self.partners) != len(leaves):
            self.partners = partners(leaves, self.entry)
        for leaf, p in zip(leaves, self.partners, strict=True):
            if p is not None and (p >= len(self.entry) or not _alike(leaf, self.entry[p])):
                self.partners = partners(leaves, self.entry)  # another resolution, or another order of arguments
                self.forget()
                break
        entry, self.entry = self.entry, []
        return [
            leaf if p is None else ops.linear_combination([leaf, entry[p]], _MINUS, dtype=leaf.dtype)[0]
            for leaf, p in zip(leaves, self.partners, strict=True)
        ]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return self.storage.bytes


_REUSE = [1.0]
_MINUS = [[1.0, -1.0]]


def partners(leaves: list, inputs: list[torch.Tensor]) -> list[int | None]:
    """For each tensor that blocks return the number of the input that they added to; None where none is like it.

    Where several are alike, such as two streams of as many tokens, each output goes with the input that it is nearest
    to: a block changes its stream by little.
    """
    found: list[int | None] = [None] * len(leaves)
    groups: dict[tuple, tuple[list[int], list[int]]] = {}
    for side, tensors in enumerate((leaves, inputs)):
        for number, t in enumerate(tensors):
            if isinstance(t, torch.Tensor) and t.is_floating_point():
                groups.setdefault((tuple(t.shape), t.dtype, t.device), ([], []))[side].append(number)
    for outs, ins in groups.values():
        if not outs or not ins:
            continue
        if len(outs) == len(ins) == 1:
            found[outs[0]] = ins[0]
            continue
        ins = ins[:4]  # the streams come first
        distance = {(o, i): float((leaves[o].detach() - inputs[i].detach()).float().norm()) for o in outs for i in ins}
        count = min(len(outs), len(ins))
        best = min(
            ((o, i) for o in permutations(outs, count) for i in permutations(ins, count)),
            key=lambda pair: sum(distance[p] for p in zip(*pair, strict=True)),
        )
        for o, i in zip(*best, strict=True):
            found[o] = i
    return found


def _one(leaves: list) -> Any:
    return leaves[0]


def flatten(feature: Any) -> tuple[list, Callable[[list], Any]]:
    """The leaves of a nested feature, and the function that puts such leaves together again."""
    if isinstance(feature, torch.Tensor):
        return [feature], _one
    if type(feature) in (tuple, list) and all(x is None or isinstance(x, torch.Tensor) for x in feature):
        return list(feature), type(feature)
    leaves, spec = _pytree.tree_flatten(feature)
    return leaves, lambda values: _pytree.tree_unflatten(values, spec)


def stub(feature: Any, shaped: bool = False) -> Any:
    """What stands for ``feature`` where nobody needs its values: each tensor [..., n] with a last dimension of 0, so
    that joining them costs nothing; or, if ``shaped``, of its full shape. Neither holds memory."""

    def leaf(t):
        if not isinstance(t, torch.Tensor) or not t.dim():
            return t
        return t.new_zeros(()).expand(t.shape) if shaped else t.new_empty((*t.shape[:-1], 0))

    return _pytree.tree_map(leaf, feature)


def _alike(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
