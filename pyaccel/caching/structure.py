"""Recognises the branches of transformers and U-Nets by what their modules consist of, never by class names.

A *repeated block* is a member of an ``nn.ModuleList`` or ``nn.ModuleDict``, a member of an ``nn.Sequential`` with at
least two members of that class, or any other module of a class that occurs so (a U-Net's middle block). Only inside
repeated blocks is anything looked for: the MLPs that embed time and text stand outside. (So does a list of MLPs in a
module without any attention or ResNet block, as it makes modulations, unless the whole model has none.) Each module is
asked, from the outermost inwards; the first rule that holds makes it a part, and nothing inside of it is looked at:

1. **GatedBranch** of pyaccel's own models; its ``compute`` is the feature, before the gate.
2. **resnet**: two or more spatial convolutions (a kernel larger than 1) and a linear layer (for the time), as
   children or as members of Sequential children. The whole output is the feature, with residual.
3. **attention**: children that project to queries, keys and values: to_q/to_k/to_v, to_qkv, qkv, q_proj/k_proj/v_proj,
   wq/wk/wv, query/key/value, q_linear/kv_linear and so on, or an ``nn.MultiheadAttention``; and no MLP inside.
4. **mlp**: at least two linear layers (or 1×1 convolutions), somewhere inside, of which one takes in the width that
   another gives out, which is that of the first; and no attention or ResNet block inside.
5. **single**: a block with an attention and exactly two linear children, of which one widens and the other comes back
   from more than the first width to it: it joins attention and MLP (the single-stream block of FLUX and
   HunyuanVideo). The feature is the output of the latter; attention and the widening layer only feed it.

Low-rank wrappers (LoRA) and quantized layers count as what they wrap, since they keep its widths.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..models.layers import GatedBranch


@dataclass(frozen=True)
class Part:
    """One branch: the module whose ``method`` returns the feature, and the modules that only feed it."""

    name: str
    module: nn.Module
    kind: str
    feeds: tuple[nn.Module, ...] = ()
    method: str = "forward"
    gated: bool = False  # the caller adds gate and residual


def parts(root: nn.Module, name: str = "", *, inside: bool = False) -> list[Part]:
    """The parts of ``root`` in the order of its modules; ``inside``: ``root`` itself is a repeated block."""
    lists = _lists(root)
    repeated = {
        # A class of leaves, or of containers, says nothing about a module elsewhere.
        type(m)
        for members in lists.values()
        for m in members
        if next(m.children(), None) is not None and not type(m).__module__.startswith("torch.nn")
    }
    members = {id(m) for members in lists.values() for m in members}
    return list(_walk(root, name, inside, repeated, members, set()))


def children_of_blocks(root: nn.Module) -> tuple[str | None, list[str]]:
    """The dotted name of a model's longest list of blocks and the names of what such a block consists of."""
    lists = [(name, m) for name, m in root.named_modules() if isinstance(m, nn.ModuleList) and name and len(m)]
    lists = [(name, m) for name, m in lists if not name[-1].isdigit() and not any(p.isdigit() for p in name.split("."))]
    if not lists:
        return None, []
    name, longest = max(lists, key=lambda item: len(item[1]))
    everywhere = [{n for n, _ in block.named_children()} for block in longest]
    return name, [n for n, m in longest[0].named_children() if all(n in e for e in everywhere) and _weighty(m)]


def _walk(
    module: nn.Module, name: str, inside: bool, repeated: set[type], members: set[int], seen: set[int]
) -> Iterator[Part]:
    if id(module) in seen:
        return
    seen.add(id(module))
    inside = inside or type(module) in repeated or id(module) in members
    if inside:
        part = _part(module, name)
        if part is not None:
            yield part
            return
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        yield from _walk(child, path, inside, repeated, members, seen)


def _part(module: nn.Module, name: str) -> Part | None:
    if isinstance(module, GatedBranch):
        kind = "attention" if any(is_attention(m) for m in module.modules()) else "mlp"
        return Part(name, module, kind, method="compute", gated=True)
    if is_resnet(module):
        return Part(name, module, "resnet")
    if is_attention(module):
        return Part(name, module, "attention")
    if is_mlp(module):
        return Part(name, module, "mlp")
    return _single(module, name)


# ---- repeated blocks -------------------------------------------------------------------------------------------------


def _members(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks that ``module`` is the list of."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return list(module.children())
    if isinstance(module, nn.Sequential):
        counts = Counter(type(m) for m in module)
        return [m for m in module if counts[type(m)] > 1 and next(m.children(), None) is not None]
    return []


def _lists(root: nn.Module) -> dict[nn.Module, list[nn.Module]]:
    """The lists of repeated blocks inside of ``root``, with their members."""
    found: dict[nn.Module, list[nn.Module]] = {}
    holders: dict[nn.Module, nn.Module] = {}  # the module that holds a list
    telling: set[nn.Module] = set()  # the modules in which there is an attention or a ResNet block

    def visit(module: nn.Module, holder: nn.Module) -> None:
        members = _members(module)
        if members:
            found[module], holders[module] = members, holder
        for child in module.children():
            visit(child, holder if members else module)
        if is_attention(module) or is_resnet(module) or any(child in telling for child in module.children()):
            telling.add(module)

    visit(root, root)
    return {owner: m for owner, m in found.items() if holders[owner] in telling or root not in telling}


# ---- what a module is ------------------------------------------------------------------------------------------------

_QKV = re.compile(
    r"(?:to_|w_?|(?:img|txt|x|c|attn|self|cross)_(?:attn_)?)?(q|k|v|kv|qk|qkv|query|key|value|query_key_value)"
    r"(?:_?(?:proj|projection|linear|lin|layer|mlp_proj))?"
)
_LETTERS = {"query": "q", "key": "k", "value": "v", "query_key_value": "qkv"}


def is_linear(module: nn.Module) -> bool:
    """A linear layer of whatever class, or a convolution that acts on each position alone."""
    return _widths(module) is not None


def is_attention(module: nn.Module) -> bool:
    """Whether ``module`` projects to queries, keys and values, and is not a whole block with an MLP in it."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    letters: set[str] = set()
    for name, child in module.named_children():
        match = _QKV.fullmatch(name.lower())
        if match and _weighty(child):
            letters |= set(_LETTERS.get(match[1], match[1]))
    return letters >= set("qkv") and not any(is_mlp(child) for child in module.children())


def is_mlp(module: nn.Module) -> bool:
    """Whether ``module`` widens and comes back to the first width, with neither attention nor ResNet block inside."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)) or is_linear(module):  # the former cannot be called
        return False
    layers = _linear_layers(module)
    if len(layers) < 2:
        return False
    first = layers[0][0]
    if not any(out == first for _, out in layers[1:]):
        return False
    inner = [m for m in module.modules() if m is not module]
    return not any(is_attention(m) or is_resnet(m) for m in inner)


def is_resnet(module: nn.Module) -> bool:
    """Whether ``module`` has two spatial convolutions and a linear layer, as children or in Sequential children."""
    near = []
    for child in module.children():
        near += list(child.children()) if isinstance(child, nn.Sequential) else [child]
    spatial = sum(_is_spatial(m) for m in near)  # a low-rank wrapper of one says in_features too
    return spatial >= 2 and any(_int(m, "in_features") and not _is_spatial(m) for m in near)


def _single(module: nn.Module, name: str) -> Part | None:
    """The block that joins attention and MLP by one projection, or None."""
    attention = [m for m in module.children() if is_attention(m)]
    linear = [(n, m, _widths(m)) for n, m in module.named_children() if is_linear(m)]
    if len(attention) != 1 or len(linear) != 2:
        return None
    for (_, widening, (width, hidden)), (joining_name, joining, (joined, back)) in (linear, linear[::-1]):
        if width == back and joined > width and hidden > width:
            path = f"{name}.{joining_name}" if name else joining_name
            return Part(path, joining, "single", feeds=(attention[0], widening))
    return None


def _linear_layers(module: nn.Module) -> list[tuple[int, int]]:
    """(in, out) of the linear layers inside of ``module``, a wrapped one counted once."""
    found, stack = [], list(module.children())[::-1]
    while stack:
        inner = stack.pop()
        widths = _widths(inner)
        if widths is not None:
            found.append(widths)
        else:
            stack += list(inner.children())[::-1]
    return found


def _widths(module: nn.Module) -> tuple[int, int] | None:
    weight = _weight(module)
    if _is_spatial(module):
        return None
    if _int(module, "in_features") and _int(module, "out_features"):
        # An MLP may say its widths too; a layer has a weight, which a low-rank wrapper hands on, or nothing inside.
        is_layer = weight is not None or next(module.children(), None) is None
        return (module.in_features, module.out_features) if is_layer else None
    is_convolution = isinstance(weight, torch.Tensor) and weight.dim() >= 3
    if is_convolution and _int(module, "in_channels") and _int(module, "out_channels"):
        return module.in_channels, module.out_channels
    return None


def _is_spatial(module: nn.Module) -> bool:
    """A convolution over two or more dimensions with a kernel larger than 1; of any class, by its weight."""
    weight = _weight(module)
    return isinstance(weight, torch.Tensor) and weight.dim() >= 4 and weight.shape[2:].numel() > 1


def _weight(module: nn.Module) -> torch.Tensor | None:
    return getattr(module, "weight", None)


def _int(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), int)


def _weighty(module: nn.Module) -> bool:
    """Whether there is a matrix in it: something that costs time."""
    return any(p.dim() >= 2 for p in module.parameters()) or is_linear(module)
