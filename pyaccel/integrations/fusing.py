"""The blocks of a model with fused norms, until they are taken back."""

from __future__ import annotations

from collections import Counter

from torch import nn

from ..caching.patching import Patch
from .attention import ATTENTION
from .blocks import BLOCKS
from .recipe import Recipe, name_of
from .record import inside_of_hooks

RECIPES = BLOCKS | ATTENTION
"""By the full name of the class, and for some the kind of their norms."""


def recipe_of(module: nn.Module) -> Recipe | None:
    """The recipe for the class of ``module``, of which no subclass is served."""
    kind = vars(module).get("norm_type")
    return RECIPES.get(name_of(type(module)) + (f"/{kind}" if kind else ""))


class FusedBlocks:
    """Replaces the ``forward`` of every block of ``model`` of a class that is known, with the same result to rounding.

    A block that is not as it was when its recipe was written, or to whose norms somebody has put hooks, is left alone;
    :meth:`rows` says so. Copies of the model have the blocks of their classes.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._patches: dict[str, tuple[Patch, Recipe]] = {}
        self._left: dict[str, tuple[nn.Module, str]] = {}

    def attach(self) -> FusedBlocks:
        """Fuses the blocks and returns this. Raises ValueError where there is none of a class that is known."""
        for name, module in self.model.named_modules():
            recipe = recipe_of(module)
            if recipe is None:
                continue
            with inside_of_hooks(module):
                why = recipe.why_not(module) or _replaced(module)
                if why:
                    self._left[name] = module, why
                else:
                    self._patches[name] = Patch(self, module, "forward", _call(module, recipe)), recipe
        if not self._patches and not self._left:
            raise ValueError(f"none of the blocks of this {type(self.model).__name__} is of a class that can be fused")
        return self

    def detach(self) -> None:
        """Gives the blocks their own ``forward`` back."""
        for patch, _ in reversed(self._patches.values()):
            patch.remove()
        self._patches, self._left = {}, {}

    def rows(self) -> list[tuple[str, str]]:
        """(what, with which result): the modules that are fused, and those that are not, by the reason."""
        fused, left = Counter(), dict(self._left)
        for name, (patch, recipe) in self._patches.items():
            why = recipe.strange(patch.module)
            if not why and not patch.in_place():
                why = "its forward was replaced"
            if why:
                left[name] = patch.module, why
            else:
                fused[type(patch.module).__name__] += 1
        found = [("fused blocks", ", ".join(f"{count} {kind}" for kind, count in fused.items()))] if fused else []
        return found + [("left alone", text) for text in _listed(left)]


def _call(module: nn.Module, recipe: Recipe):
    def call(original, args: tuple, kwargs: dict):
        result = NotImplemented if recipe.strange(module) else recipe.forward(module, *args, **kwargs)
        return original(*args, **kwargs) if result is NotImplemented else result

    return call


def _replaced(module: nn.Module) -> str:
    """Why the ``forward`` of ``module`` is not that of its class, or nothing."""
    own = vars(module).get("forward")
    same = own is None or getattr(own, "__func__", None) is type(module).forward
    return "" if same else "its forward was replaced before, by a cache or by hooks"


def _listed(left: dict[str, tuple[nn.Module, str]]) -> list[str]:
    """A line for each class and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, (module, why) in left.items():
        groups.setdefault((type(module).__name__, why), []).append(name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} ({kind}): {why}"
        for (kind, why), names in groups.items()
    ]
