"""How a class of diffusers is fused, and when a module of it is as it should be for that.

diffusers is not imported: a module is recognised by the name of its class, the arguments of its ``forward`` and its
norms.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Recipe:
    """How a class is fused: ``forward(module, ...)`` in place of its own, without calling its ``norms``.

    ``arguments`` are those of the class's forward that it was written for; in place of an ``optional`` norm there may
    be nn.Identity, and ``unfit`` says what else is not as it should be. ``forward`` returns NotImplemented, and has
    done nothing, for a call that it does not know.
    """

    forward: Callable
    arguments: tuple[str, ...]
    norms: tuple[str, ...]
    optional: tuple[str, ...] = ()
    unfit: Callable[[nn.Module], str] = lambda module: ""

    def why_not(self, module: nn.Module) -> str:
        """Empty where ``module`` is as this was written for; otherwise what is not."""
        if tuple(inspect.signature(type(module).forward).parameters)[1:] != self.arguments:
            return "its forward has other arguments than in the version of diffusers that is known here"
        return self.strange(module)

    def strange(self, module: nn.Module) -> str:
        """What may change from call to call, such as a hook on a norm, which would not be called; costs little."""
        for name in self.norms:
            norm = getattr(module, name, None)
            if norm is None:
                continue
            if kind_of(norm) is None and not (name in self.optional and type(norm) is nn.Identity):
                return f"its {name} is a {type(norm).__name__}, which is not known here"
            attributes = vars(norm)
            if "forward" in attributes or any(attributes.get(hooks) for hooks in _HOOKS):
                return f"its {name} has a hook or a forward of its own"
        return self.unfit(module)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def kind_of(norm: nn.Module) -> str | None:
    """The name of a norm over the last dimension in :mod:`pyaccel.ops`, or None for one that is not known."""
    if type(norm) is nn.LayerNorm or name_of(type(norm)) == "diffusers.models.normalization.FP32LayerNorm":
        return "layer" if len(norm.normalized_shape) == 1 else None
    if type(norm) is nn.RMSNorm:
        return "rms" if len(norm.normalized_shape) == 1 and norm.eps is not None else None
    if name_of(type(norm)) == "diffusers.models.normalization.RMSNorm":
        return "rms" if len(norm.dim) == 1 else None
    return None


def name_of(kind: type) -> str:
    """The full name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"
