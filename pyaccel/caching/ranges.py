"""Ranges of a transformer's blocks as sites: what is remembered is what the whole range adds."""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

from torch import nn

from ..models.layers import GatedBranch
from .structure import parts
from .where import Probe, Site


class Block(NamedTuple):
    """A block of the model's trunk: its list's name, its number in that list, and the module."""

    list: str
    number: int
    module: nn.Module


def blocks(model: nn.Module) -> list[Block]:
    """The blocks of a transformer's trunk, in the order in which they run.

    They are the members of the model's lists of blocks in which :func:`pyaccel.caching.branches` finds something. Of
    several lists those count that hold at least a fifth of the largest one's weights: the others refine text or
    inputs before the trunk.

    Raises ValueError where there is no such list, as in a U-Net.
    """
    lists: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if inside or not isinstance(module, nn.ModuleList) or not len(module) or "refiner" in name:
            continue
        if all(parts(member, inside=True) for member in module):
            lists[name] = module
    sizes = {name: sum(p.numel() for p in members.parameters()) for name, members in lists.items()}
    lists = {name: m for name, m in lists.items() if sizes[name] >= 0.2 * max(sizes.values())}
    if not lists or is_unet(model):
        kind = "it is a U-Net: use deepcache, or taylorseer" if is_unet(model) else "describe sites by caching.Site"
        raise ValueError(f"{type(model).__name__} has no list of transformer blocks ({kind})")
    return [Block(name, i, block) for name, members in lists.items() for i, block in enumerate(members)]


def is_unet(model: nn.Module) -> bool:
    """Whether a model has a way down and a way up again."""
    names = {name for name, _ in model.named_children()}
    return any(pair <= names for pair in _WAYS)


_WAYS = ({"down_blocks", "up_blocks"}, {"input_blocks", "output_blocks"}, {"enc", "dec"}, {"down", "up"})


def spans(
    model: nn.Module, first: int = 0, last: int | None = None, *, residual: bool = True, **site: Any
) -> list[Site]:
    """Sites for the blocks ``first`` to ``last`` − 1 of a transformer's trunk; negative numbers count from the end.

    One for each list of blocks that the range touches, since their streams differ. In a predicted step none of the
    blocks is run. ``residual`` False remembers the output of the last block instead of what the range adds. ``site``
    are further arguments of :class:`Site`, such as ``when`` and ``probe``.

    Raises ValueError for an empty range and for models without lists of blocks.
    """
    chain = blocks(model)
    chosen = chain[first:last]
    if not chosen:
        raise ValueError(f"blocks {first} to {last} of {len(chain)}: the range is empty")
    found = []
    for name, members in groupby(chosen, key=lambda block: block.list):
        members = list(members)
        path = f"{name}.{members[0].number}"
        if len(members) > 1:
            path += f"-{members[-1].number}"
        *feeds, module = (block.module for block in members)
        found.append(Site(path, module, "blocks", tuple(feeds), residual=residual, shaped=True, **site))
    return found


def first_blocks(model: nn.Module, count: int) -> Probe:
    """A probe of what the first ``count`` blocks add."""
    chain = blocks(model)
    if not 1 <= count < len(chain) or chain[count - 1].list != chain[0].list:
        most = sum(block.list == chain[0].list for block in chain[:-1])
        raise ValueError(f"the first {count} blocks: expected 1 to {most} of them")
    return Probe(chain[count - 1].module, since=chain[0].module)


def modulated_input(model: nn.Module) -> Probe:
    """A probe of the first block's modulated input: what enters its first attention. It lies inside of the block.

    Raises ValueError where the first block has no attention that is recognised.
    """
    block = blocks(model)[0]
    for part in parts(block.module, block.list, inside=True):
        if part.kind in ("attention", "single"):
            module = part.feeds[0] if part.feeds else part.module
            return Probe(module.function if isinstance(module, GatedBranch) else module, inside=True, input=True)
    raise ValueError(f"{type(model).__name__}: its first block has no attention that is recognised")
