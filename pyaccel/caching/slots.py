"""Where a cache's patches sit, and how they follow a module that is replaced in its place (by an adapter around it)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .patching import Patch


class Slot:
    """A patched module and its place in its parent."""

    def __init__(self, cache, module: nn.Module, method: str, places: dict, name: str, call: Callable):
        self.parent, self.key = places.get(id(module), (None, ""))
        self.cache, self.method, self.name, self.call = cache, method, name, call
        self.patch = Patch(cache, module, method, call)

    def in_place(self) -> bool:
        """Whether the module is where it was and a call of it comes to us."""
        patch = self.patch
        if self.parent is not None and self.parent._modules.get(self.key) is not patch.module:
            return False
        return patch.module.__dict__.get(self.method) is patch.outermost or patch.in_place()

    def follow(self) -> None:
        """Patches what is in the place now."""
        module = self.patch.module if self.parent is None else self.parent._modules.get(self.key)
        if module is None or not callable(getattr(module, self.method, None)):
            raise RuntimeError(
                f"{self.cache.method}: the module of the site {self.name!r} is gone from the model, or has no "
                f"{self.method!r} any more. Detach the cache and make a new one"
            )
        self.patch.remove()
        self.patch = Patch(self.cache, module, self.method, self.call)


def places(model: nn.Module) -> dict[int, tuple[nn.Module, str]]:
    """For each module inside of ``model`` its parent and its name there."""
    return {id(child): (parent, key) for parent in model.modules() for key, child in parent.named_children()}
