"""Where a cache sits: the parts of a model whose outputs it may replace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from .moment import When
from .structure import Part, children_of_blocks, parts


@dataclass(frozen=True, eq=False)
class Probe:
    """A tensor that every model call computes, before its site decides, and whose change a rule may ask for.

    Args:
        module: its output; of several tensors the one that belongs to the first input. None for the tensor with which
            the site itself is entered.
        since: a module, run before or the same one, whose input is subtracted: the residual of the blocks between.
        inside: ``module`` lies inside of the site. As soon as the rule says "predict", the site's computation is left.
        input: look at the module's input instead, before it runs.
    """

    module: nn.Module | None = None
    since: nn.Module | None = None
    inside: bool = False
    input: bool = False


@dataclass(frozen=True, eq=False)
class Site:
    """A module whose output is a feature that a cache remembers and predicts.

    Args:
        name: dotted, as in ``model.named_modules()``; for messages.
        module: the module. What it returns is the feature: a tensor, or a tuple, list or dict of tensors and Nones.
        kind: "attention", "mlp", "resnet", "single" (attention and MLP joined by one projection), "blocks" (a range of
            them), "depth" (the lower part of a U-Net) or a word of yours.
        feeds: modules that run before it and only feed this one. Where the feature is predicted they are not run;
            instead they return stand-ins without memory.
        method: the method that computes the feature, mostly ``forward``.
        residual: remember the output minus the input (that of the first of ``feeds``, where there are some), and
            predict the present input plus that.
        shaped: the stand-ins have the shapes of what they stand for, because others look at these; otherwise a last
            dimension of 0, so that joining them costs nothing.
        when: a rule of this site's own, instead of the cache's.
        probe: what that rule may ask about.
        adjust: ``(step, tensor) -> tensor``, applied to what is predicted.
        verify: compute the site even where it is predicted, and hand the rule's ``verified(moment, error)`` the
            relative error Σ|predicted − computed|/Σ|computed|; where that says no, the whole call is done in full.
        gated: whoever calls ``method`` takes, instead of a predicted tensor, a function ``(residual, gate)`` that gives
            residual + gate ⊙ tensor, so that prediction, gate and residual are one pass over memory.
    """

    name: str
    module: nn.Module
    kind: str = "branch"
    feeds: tuple[nn.Module, ...] = ()
    method: str = "forward"
    residual: bool = False
    shaped: bool = False
    when: When | None = None
    probe: Probe | None = None
    adjust: Callable | None = None
    verify: bool = False
    gated: bool = False

    def __post_init__(self):
        for module in (self.module, *self.feeds):
            if not isinstance(module, nn.Module):
                raise TypeError(f"site {self.name!r}: expected a torch module, got {type(module).__name__}")
        if not callable(getattr(self.module, self.method, None)):
            raise ValueError(f"site {self.name!r}: {type(self.module).__name__} has no method {self.method!r}")
        object.__setattr__(self, "feeds", tuple(self.feeds))


def branches(model_or_blocks: nn.Module | Iterable[nn.Module]) -> list[Site]:
    """The attention and MLP branches (and ResNet blocks) of a model, or of some of its blocks, in the order of modules.

    They are found by structure alone, whatever the classes are called; the rules are in
    :mod:`pyaccel.caching.structure`.

    Raises:
        ValueError: nothing was recognised. The message says what was looked for and which lines describe the model.
        TypeError: not a module or a list of modules.
    """
    whole = isinstance(model_or_blocks, nn.Module)
    roots = [model_or_blocks] if whole else list(model_or_blocks)
    if not all(isinstance(root, nn.Module) for root in roots):
        raise TypeError("expected a model or a list of its blocks, all torch modules")
    found: list[Part] = []
    for index, root in enumerate(roots):
        found += parts(root, "" if whole else str(index), inside=not whole)
    if not found and whole and next(iter(roots[0].children()), None) is not None:
        found = parts(roots[0], "", inside=True) if isinstance(roots[0], _CONTAINERS) else []
    if not found:
        raise ValueError(_unrecognised(roots))
    return [Site(p.name, p.module, p.kind, p.feeds, p.method, gated=p.gated) for p in found]


_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def _unrecognised(roots: list[nn.Module]) -> str:
    names = ", ".join(type(root).__name__ for root in roots) or "nothing"
    path, children = children_of_blocks(roots[0]) if len(roots) == 1 else (None, [])
    path, children = path or "blocks", children or ["attn", "mlp"]
    lines = [
        "from pyaccel import caching",
        f"blocks = list(enumerate(model.{path}))  # and the parts of a block that are worth caching:",
        f'sites = [caching.Site(f"{path}.{{i}}.{{n}}", b.get_submodule(n)) for i, b in blocks for n in {children!r}]',
        "with caching.taylorseer(model, where=sites) as cache: ...",
    ]
    return (
        f"{names}: found nothing to cache. Looked, inside of the repeated blocks (members of a ModuleList, ModuleDict "
        "or Sequential), for attention (projections called to_q/to_k/to_v, qkv, q_proj/k_proj/v_proj or the like), "
        "for MLPs (linear layers that widen and come back to the first width), for ResNet blocks (two spatial "
        "convolutions) and for pyaccel.models.layers.GatedBranch. Describe the model yourself:\n    "
        + "\n    ".join(lines)
    )
