"""What is remembered of one site: the last full features, tensors or tuples, lists and dicts of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree

from .. import ops
from .how import How


class History:
    """The last full features of one site, newest first, with their steps; ``depth`` differences can be formed.

    Features are kept by reference, and their version tells whether the model has written into one since. Copies are
    kept of what is a view of a larger tensor, of what has no version (inference mode) and where ``copies`` is set.
    """

    __slots__ = (
        "_decided", "_owned", "_serial", "_shapes", "_versions", "depth", "features", "inputs", "rebuild", "steps",
        "stubs", "written",
    )  # fmt: skip

    def __init__(self):
        self.features: list[list] = []  # for each remembered step the leaves of the feature
        self.steps: list[int] = []
        self.depth = 0
        self.inputs: list | None = None  # the shapes that the newest feature was computed for
        self.rebuild: Callable[[list], Any] | None = None
        self.stubs: dict[int, Any] = {}  # for each feeding module what it returns where the site is predicted
        self._versions: list[list[int | None]] = []
        self._owned = False
        self.written = False  # somebody wrote into a feature that is kept by reference
        self._serial, self._decided, self._shapes = 0, False, None

    def decide(self, session, args: tuple, kwargs: dict) -> bool:
        """Whether the site is predicted in this model call of ``session``; decided by the first module that asks, the
        site or what feeds it, by the shapes of its arguments."""
        if self._serial == session.serial:
            return self._decided
        shapes = [x.shape for x in args if isinstance(x, torch.Tensor)]
        for x in kwargs.values():
            if isinstance(x, torch.Tensor):
                shapes.append(x.shape)  # noqa: PERF401
        self._serial, self._shapes = session.serial, shapes
        self._decided = not session.full and bool(self.features) and self.inputs == shapes and self.intact()
        return self._decided

    def push(self, step: int, feature: Any, how: How, copies: bool = False) -> None:
        """Remembers the full ``feature`` of ``step``."""
        leaves, self.rebuild = flatten(feature)
        kept, versions, self._owned = [], [], False
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor):
                inference = leaf.is_inference()
                if copies or inference or _is_part(leaf):
                    leaf, version = leaf.clone(), None
                    self._owned = True
                else:
                    version = leaf._version
            else:
                version = None
            kept.append(leaf)
            versions.append(version)
        self.inputs, self.written = self._shapes, False
        # Another resolution: nothing of before can be combined with it.
        if self.features and not _alike(self.features[0], kept):
            self.features, self.steps, self._versions, self.depth = [], [], [], 0
        if self.steps and self.steps[0] == step:  # computed anew, as gradient checkpointing does
            self.features[0], self._versions[0] = kept, versions
            return
        self.depth = min(how.order, self.depth + 1) if self.steps and step >= how.first else 0
        room = how.order + 1
        self.features = [kept, *self.features][:room]
        self._versions = [versions, *self._versions][:room]
        self.steps = [step, *self.steps][:room]

    def intact(self) -> bool:
        """Whether nobody has written into what is remembered; ``written`` says it too."""
        for leaves, versions in zip(self.features, self._versions, strict=True):
            for leaf, version in zip(leaves, versions, strict=True):
                if version is not None and leaf._version != version:
                    self.written = True
                    self.features, self.steps, self._versions, self.depth = [], [], [], 0
                    return False
        return True

    def weights(self, step: int, how: How, known: dict[tuple, list[float]]) -> list[float]:
        """The weights of the newest features at ``step``; those that other sites asked for are ``known``."""
        count = self.depth + 1
        if count == 1:
            return _REUSE
        steps = tuple(self.steps[:count])
        weights = known.get(steps)
        if weights is None:
            weights = known[steps] = how.weights(steps, step)
        return weights

    def predict(self, weights: list[float]) -> Any:
        """The feature with these weights of the newest ones."""
        count = len(weights)
        newest = self.features[0]
        if count == 1:
            leaves = [leaf.clone() if self._owned and isinstance(leaf, torch.Tensor) else leaf for leaf in newest]
        elif len(newest) == 1 and newest[0].is_floating_point():
            leaves = ops.linear_combination([f[0] for f in self.features[:count]], [weights])
        else:
            leaves = []
            for j, leaf in enumerate(newest):
                if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                    leaf = ops.linear_combination([f[j] for f in self.features[:count]], [weights])[0]
                leaves.append(leaf)
        return self.rebuild(leaves)

    @property
    def bytes(self) -> int:
        """Memory held."""
        tensors = [t for leaves in self.features for t in leaves if isinstance(t, torch.Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors)


_REUSE = [1.0]


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


def stub(feature: Any) -> Any:
    """Like ``feature`` but each tensor [..., n] with a last dimension of 0: nothing to compute and nothing to hold."""
    return _pytree.tree_map(
        lambda t: t.new_empty((*t.shape[:-1], 0)) if isinstance(t, torch.Tensor) and t.dim() else t, feature
    )


def _is_part(t: torch.Tensor) -> bool:
    """Whether ``t`` keeps a larger tensor alive; then a copy is kept."""
    if type(t) is not torch.Tensor or t._base is None:
        return False
    return t.untyped_storage().nbytes() > t.numel() * t.element_size()


def _alike(a: list, b: list) -> bool:
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if isinstance(x, torch.Tensor) != isinstance(y, torch.Tensor):
            return False
        if isinstance(x, torch.Tensor) and (x.shape != y.shape or x.dtype != y.dtype or x.device != y.device):
            return False
    return True
