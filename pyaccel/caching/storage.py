"""How remembered features are kept: raw and by reference, or in fewer bits.

With fewer bits the newest feature is kept in bfloat16 and of each older one the *difference* to the next newer one, in
int8 or fp8 with a scale for each row: differences are small, so their rounding is too. A difference is formed once,
when its feature stops being the newest, and never again; h_0 = n, h_1 = n + d_1, h_2 = n + d_1 + d_2, so the weights w
of features are the sums (Σ w_j, w_1 + w_2 + ..., ...) over n, d_1, d_2, ... and one pass gives the prediction.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch

from .. import ops


class Raw:
    """The features of one site, newest first, each a list of leaves.

    Kept by reference; their version tells whether the model has written into one since. Copies are kept of what is a
    view of a larger tensor, of what has no version (inference mode) and where the caller asks for ``copies``.
    """

    __slots__ = ("_owned", "_versions", "features", "written")

    def __init__(self):
        self.features: list[list] = []
        self.written = False  # somebody wrote into a feature that is kept by reference
        self._versions: list[list[int | None]] = []
        self._owned = False

    def holding(self, features: list[list], dtypes: list) -> Raw:
        """Itself, with these features that are somebody else's: what is made of them are always new tensors."""
        self.features, self._owned = features, True
        return self

    def push(self, leaves: list, room: int, *, replace: bool, copies: bool) -> None:
        """Keeps ``leaves`` as the newest, and ``room`` features in all; ``replace``: instead of the newest."""
        kept, versions, self._owned = [], [], False
        for leaf in leaves:
            version = None
            if isinstance(leaf, torch.Tensor):
                if copies or leaf.is_inference() or _is_part(leaf):
                    leaf, self._owned = leaf.clone(), True
                else:
                    version = leaf._version
            kept.append(leaf)
            versions.append(version)
        self.written = False
        older = 1 if replace else 0
        self.features = [kept, *self.features[older:]][:room]
        self._versions = [versions, *self._versions[older:]][:room]

    def like(self, leaves: list) -> bool:
        """Whether ``leaves`` can be combined with what is kept."""
        return len(self.features[0]) == len(leaves) and all(map(_combinable, self.features[0], leaves))

    def clear(self) -> None:
        """Forgets everything, but not that somebody wrote into it."""
        self.features, self._versions = [], []

    def intact(self) -> bool:
        """Whether nobody has written into what is kept; ``written`` says it too."""
        for leaves, versions in zip(self.features, self._versions, strict=True):
            for leaf, version in zip(leaves, versions, strict=True):
                if version is not None and leaf._version != version:
                    self.written = True
                    return False
        return True

    def combined(self, weights: list[float], added: list | None = None) -> list:
        """Σ weights·features for each leaf, plus the tensor of ``added``, if there is one for it."""
        count, newest = len(weights), self.features[0]
        if count == 1 and added is None:
            return [leaf.clone() if self._owned and isinstance(leaf, torch.Tensor) else leaf for leaf in newest]
        leaves = []
        for j, leaf in enumerate(newest):
            extra = None if added is None else added[j]
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and (count > 1 or extra is not None):
                terms = [f[j] for f in self.features[:count]]
                if extra is None:
                    (leaf,) = ops.linear_combination(terms, [weights])
                else:
                    (leaf,) = ops.linear_combination([extra, *terms], [[1.0, *weights]], dtype=extra.dtype)
            leaves.append(leaf)
        return leaves

    def gated(self, weights: list[float], residual: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """residual + gate ⊙ Σ weights·features, of a feature that is one tensor."""
        return ops.gated_combination(residual, gate, [f[0] for f in self.features[: len(weights)]], weights)

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(_bytes(t) for leaves in self.features for t in leaves)

    def expected(self, room: int) -> int:
        """Memory that ``room`` features like the newest will take."""
        return room * sum(map(_bytes, self.features[0]))


class Compact:
    """The features of one site in fewer bits: the newest in bfloat16, ``dtype`` for the differences to older ones.

    ``dtype`` is torch.int8, torch.float8_e4m3fn or torch.bfloat16 (then whole features are kept in that).
    """

    __slots__ = ("_dtypes", "_newest", "_older", "dtype", "written")

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.written = False
        self._dtypes: list[torch.dtype | None] = []
        self._newest: list = []
        self._older: list[list] = []  # for each older feature its leaves, newest first

    def holding(self, features: list[list], dtypes: list) -> Compact:
        """Itself, with these kept leaves that are somebody else's; ``dtypes`` are those of a feature's."""
        (self._newest, *self._older), self._dtypes = features, dtypes
        return self

    def push(self, leaves: list, room: int, *, replace: bool, copies: bool) -> None:
        """As in :class:`Raw`; what is kept is always ours."""
        kept = [narrowed(leaf) for leaf in leaves]
        if self._newest and not replace and room > 1:
            self._older = [list(map(self.aged, self._newest, kept)), *self._older][: room - 1]
        self._newest, self._dtypes = kept, [getattr(leaf, "dtype", None) for leaf in leaves]

    def aged(self, old: Any, new: Any) -> Any:
        """What is kept of the leaf ``old`` beside the next newer one."""
        if not isinstance(old, torch.Tensor) or not old.is_floating_point() or self.dtype == torch.bfloat16:
            return old
        return ops.quantize(old, minus=new, dtype=self.dtype)

    def like(self, leaves: list) -> bool:
        """Whether ``leaves`` can be combined with what is kept."""
        same = [getattr(leaf, "dtype", None) for leaf in leaves] == self._dtypes
        return same and all(
            a.shape == b.shape and a.device == b.device
            for a, b in zip(self._newest, leaves, strict=True)
            if isinstance(a, torch.Tensor)
        )

    def clear(self) -> None:
        """Forgets everything."""
        self._newest, self._older = [], []

    def intact(self) -> bool:
        """Nobody else has what is kept."""
        return True

    def combined(self, weights: list[float], added: list | None = None) -> list:
        """As in :class:`Raw`."""
        older, leaves = self._older[: len(weights) - 1], []
        weights = self._of_kept(weights)
        for j, (leaf, dtype) in enumerate(zip(self._newest, self._dtypes, strict=True)):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                extra = None if added is None else added[j]
                out = torch.empty_like(leaf, dtype=dtype)
                leaf = ops.gated_combination(extra, None, [leaf, *(o[j] for o in older)], weights, out=out)
            elif isinstance(leaf, torch.Tensor):
                leaf = leaf.clone()
            leaves.append(leaf)
        return leaves

    def gated(self, weights: list[float], residual: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """As in :class:`Raw`."""
        kept = [self._newest[0], *(older[0] for older in self._older[: len(weights) - 1])]
        return ops.gated_combination(residual, gate, kept, self._of_kept(weights))

    def _of_kept(self, weights: list[float]) -> list[float]:
        """The weights of the newest feature and the differences."""
        return weights if self.dtype == torch.bfloat16 else list(accumulate(reversed(weights)))[::-1]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(_bytes(t) for leaves in (self._newest, *self._older) for t in leaves)

    def expected(self, room: int) -> int:
        """As in :class:`Raw`."""
        numel = sum(x.numel() for x in self._newest if isinstance(x, torch.Tensor))
        rows = sum(x.shape[:-1].numel() for x in self._newest if isinstance(x, torch.Tensor))
        each = 2 * numel if self.dtype == torch.bfloat16 else numel + 4 * rows
        return 2 * numel + (room - 1) * each


MEMORY = {"int8": torch.int8, "fp8": torch.float8_e4m3fn, "bf16": torch.bfloat16}
"""What ``memory=`` may be, and the dtype of what is kept of older features."""


def storage_of(memory: str | None) -> Raw | Compact:
    """A new storage of this kind; None keeps features as they are."""
    if memory is None:
        return Raw()
    if memory not in MEMORY:
        raise ValueError(f"memory must be None or one of {', '.join(MEMORY)}, got {memory!r}")
    return Compact(MEMORY[memory])


def narrowed(leaf: Any) -> Any:
    """What is kept of a leaf that is the newest: ours, in bfloat16."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    leaf = leaf.detach()
    narrow = leaf.to(torch.bfloat16) if leaf.is_floating_point() else leaf
    return narrow.clone() if narrow is leaf else narrow


def _bytes(leaf: Any) -> int:
    return getattr(leaf, "nbytes", 0)  # of a tensor or an ops.Quantized


def _is_part(t: torch.Tensor) -> bool:
    """Whether ``t`` keeps a larger tensor alive; then a copy is kept."""
    if type(t) is not torch.Tensor or t._base is None:
        return False
    return t.untyped_storage().nbytes() > t.numel() * t.element_size()


def _combinable(x: Any, y: Any) -> bool:
    if isinstance(x, torch.Tensor) != isinstance(y, torch.Tensor):
        return False
    return not isinstance(x, torch.Tensor) or (x.shape == y.shape and x.dtype == y.dtype and x.device == y.device)
