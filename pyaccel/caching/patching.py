"""Replaces a method of one module instance, and takes the replacement away again whatever others did meanwhile.

accelerate and diffusers also replace ``forward``, and adapters replace whole modules. So a patch can tell whether it is
still reachable, another one can be made where it is not, and a removed one passes straight through: a wrapper that
somebody made around it keeps working.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn


class Patch:
    """``module.method`` becomes ``call(original, *args, **kwargs)``, until :meth:`remove`.

    Copies and pickles of the module have the original method, bound to the copy.
    """

    # Whoever wraps this with functools.wraps copies its __dict__, and must not get the cache in it.
    __slots__ = ("__dict__", "call", "method", "module", "original", "outermost", "owner", "previous")

    def __init__(self, owner: Any, module: nn.Module, method: str, call: Callable):
        self.owner, self.module, self.method, self.call = owner, module, method, call
        self.previous = _instance_method(module, method)
        self.original = getattr(module, method) if self.previous is None else self.previous
        functools.update_wrapper(self, self.original, updated=())  # inspect.signature reads through __wrapped__
        setattr(module, method, self)
        self.outermost: Any = self

    def __call__(self, *args, **kwargs):
        if self.owner is None:
            return self.original(*args, **kwargs)
        return self.call(self.original, args, kwargs)

    def __reduce__(self):
        if self.previous is None:
            # When a copy is restored its class is known and nothing else: this is the method of the class.
            return getattr, (self.module, self.method)
        return _itself, (self.previous,)

    def in_place(self) -> bool:
        """Whether a call of the module still comes here."""
        current = self.module.__dict__.get(self.method)
        if current is self.outermost:
            return True
        if self in _chain(current) or self in _chain(self.module.__dict__.get("_old_forward")):
            self.outermost = current  # somebody wrapped us, which is fine
            return True
        return False

    def remove(self) -> None:
        """Gives the method back; where somebody has wrapped us, the wrapper gets the original to call."""
        self.owner = None
        attributes = self.module.__dict__
        if attributes.get(self.method) is self:
            if self.previous is None:
                delattr(self.module, self.method)
            else:
                setattr(self.module, self.method, self.previous)
        if attributes.get("_old_forward") is self:  # accelerate.hooks.add_hook_to_module
            self.module._old_forward = self.original
        for reference in getattr(attributes.get("_diffusers_hook"), "_fn_refs", ()):  # diffusers' HookRegistry
            for name in ("forward", "original_forward"):
                if getattr(reference, name, None) is self:
                    setattr(reference, name, self.original)


def patched_by(module: nn.Module, kind: type, method: str = "forward") -> Any:
    """The owner, of this kind, of a living patch on ``module``, or None."""
    for link in (*_chain(module.__dict__.get(method)), *_chain(module.__dict__.get("_old_forward"))):
        if isinstance(link, Patch) and isinstance(link.owner, kind):
            return link.owner
    return None


def _instance_method(module: nn.Module, method: str) -> Any:
    """What was set on the instance itself; a removed patch that somebody put back there is taken away."""
    current = module.__dict__.get(method)
    while isinstance(current, Patch) and current.owner is None:
        current = current.previous
        if current is None:
            delattr(module, method)
        else:
            setattr(module, method, current)
    return current


def _chain(function: Any) -> list:
    """``function`` and what it wraps."""
    links = []
    while function is not None and len(links) < 32:
        links.append(function)
        function = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
    return links


def _itself(x):
    return x
