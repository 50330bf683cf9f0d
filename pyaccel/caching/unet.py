"""The depth of a U-Net as a site: everything below one branch between the way down and the way up."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from .where import Site


class Way(NamedTuple):
    """A U-Net as a list of layers. ``down`` are those that each push a skip connection, after the first convolution's;
    ``middle`` is between; ``up`` are groups of layers, each begun by one that takes a skip connection."""

    down: list[nn.Module | tuple[nn.Module, ...]]
    middle: list[nn.Module]
    up: list[tuple[nn.Module, ...]]
    groups: dict[nn.Module, list[nn.Module]]  # blocks that may be left out as a whole, with their layers


def below_branch(model: nn.Module, branch: int = 0) -> Site:
    """The site of DeepCache (Ma et al. 2024, arXiv 2312.00858): what enters the up layer of skip branch ``branch``.

    Branch 0 is the skip connection from the first convolution, branch 1 that of the first layer below it, and so on. In
    a predicted step the layers of the branches 1 to ``branch`` are computed on the way down, and those from this branch
    on on the way up; all below is left out.

    Raises ValueError for a branch that does not exist and for a model that is no U-Net of a known form: diffusers'
    (down_blocks, mid_block, up_blocks), the original code of ADM and LDM (input_blocks, middle_block, output_blocks),
    that of EDM (enc, dec) and pyaccel's own.
    """
    way = _way(model)
    if len(way.up) != len(way.down) + 1:
        raise ValueError(
            f"{type(model).__name__}: {len(way.up)} layers take a skip connection and {len(way.down) + 1} make one"
        )
    most = len(way.up) - 2
    if isinstance(branch, bool) or not isinstance(branch, int) or not 0 <= branch <= most:
        raise ValueError(
            f"branch must be a whole number from 0 to {most} in this {type(model).__name__}, got {branch!r}"
        )
    deep = [m for group in way.down[branch:] for m in (group if isinstance(group, tuple) else (group,))]
    deep += way.middle
    deep += [m for group in way.up[: len(way.up) - 1 - branch] for m in group]
    layers = {id(m) for m in deep}
    whole = {}  # layers of blocks that are left out as a whole
    for block, members in way.groups.items():
        if all(id(m) in layers for m in members):
            whole |= {id(m): block for m in members}
    modules = list(dict.fromkeys(whole.get(id(m), m) for m in deep))
    names = {id(m): name for name, m in model.named_modules()}
    *feeds, module = modules
    return Site(f"below branch {branch} ({names[id(module)]})", module, "depth", tuple(feeds), shaped=True)


def _way(model: nn.Module) -> Way:
    children = dict(model.named_children())
    if {"down_blocks", "up_blocks"} <= children.keys():
        return _diffusers(model)
    if {"input_blocks", "middle_block", "output_blocks"} <= children.keys():
        up = [(m,) for m in model.output_blocks]
        return Way(list(model.input_blocks)[1:], [model.middle_block], up, {})
    if {"enc", "dec"} <= children.keys():
        return _edm(model)
    if {"down", "downsample", "middle", "up", "upsample"} <= children.keys():
        return _own(model)
    raise ValueError(
        f"{type(model).__name__} is no U-Net of a known form (down_blocks and up_blocks, input_blocks and "
        "output_blocks, or enc and dec); describe its depth by caching.Site(name, last_deep_layer, 'depth', "
        "feeds=deep_layers_before, shaped=True) and hand it over as where=[site]"
    )


def _diffusers(model: nn.Module) -> Way:
    down, up, groups = [], [], {}
    for block in model.down_blocks:
        layers = [_beside(block, i) for i in range(len(block.resnets))]
        layers += [(sampler,) for sampler in (getattr(block, "downsamplers", None) or ())][:1]
        down += layers
        groups[block] = [m for layer in layers for m in layer]
    for block in model.up_blocks:
        layers = [_beside(block, i) for i in range(len(block.resnets))]
        samplers = tuple(getattr(block, "upsamplers", None) or ())
        layers[-1] = (*layers[-1], *samplers)
        up += layers
        groups[block] = [m for layer in layers for m in layer]
    middle = [] if getattr(model, "mid_block", None) is None else [model.mid_block]
    return Way(down, middle, up, groups)


def _beside(block: nn.Module, index: int) -> tuple[nn.Module, ...]:
    """The ResNet block of this number and what follows it: attention, motion modules."""
    lists = [m for _, m in block.named_children() if isinstance(m, nn.ModuleList) and len(m) == len(block.resnets)]
    lists = sorted(lists, key=lambda m: m is not block.resnets)
    return tuple(m[index] for m in lists)


def _edm(model: nn.Module) -> Way:
    enc = [m for name, m in model.enc.items() if "aux" not in name]
    up: list[list[nn.Module]] = []
    middle = []
    for name, module in model.dec.items():
        if "aux" in name:
            continue
        if "block" in name:
            up.append([module])
        elif up:
            up[-1].append(module)
        else:
            middle.append(module)
    return Way(enc[1:], middle, list(map(tuple, up)), {})


def _own(model: nn.Module) -> Way:
    levels, per_level = model.levels, model.blocks
    down: list[nn.Module] = []
    up: list[tuple[nn.Module, ...]] = []
    for level in range(levels):
        down += model.down[level * per_level : (level + 1) * per_level]
        if level < levels - 1:
            down.append(model.downsample[level])
        layers = [(m,) for m in model.up[level * (per_level + 1) : (level + 1) * (per_level + 1)]]
        if level < levels - 1:
            layers[-1] = (*layers[-1], model.upsample[level])
        up += layers
    return Way(down, [model.middle], up, {})
