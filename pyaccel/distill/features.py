"""Features of a network: which blocks it has, what they give in a call, and how wide that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_LISTS = ("blocks", "transformer_blocks", "single_transformer_blocks", "layers", "hidden")
_MIDDLES = ("middle", "mid_block")
_UNETS = (("down", "down_blocks"), _MIDDLES, ("up", "up_blocks"))


def output_of(block: nn.Module, arguments: tuple, keywords: dict, output) -> Tensor:
    """What a block that was called with these arguments gives; of several outputs, the last tensor.

    Blocks of text and image give the tokens of both, in an order of their own: the image's are as many as those of
    ``hidden_states``, the first argument. ValueError where that leaves several, or none.
    """
    if isinstance(output, Tensor):
        return output
    tensors = [o for o in output if isinstance(o, Tensor)]
    tokens = [o for o in tensors if o.dim() == 3]
    if len(tokens) < 2:
        return tensors[-1]
    given = keywords.get("hidden_states", arguments[0] if arguments else None)
    found = [o for o in tokens if isinstance(given, Tensor) and o.shape[:2] == given.shape[:2]]
    if len(found) != 1:
        raise ValueError(
            f"which of {[list(o.shape) for o in tokens]}, the outputs of {type(block).__name__}, are the image's "
            "cannot be told by the number of its tokens; name a part of the block that gives these alone, such as its "
            "feed-forward layer of the image"
        )
    return found[0]


def middle_block(network: nn.Module) -> str:
    """The name of the block in the middle of a network, also of one inside of an adapter."""
    for name in _MIDDLES:
        if isinstance(getattr(network, name, None), nn.Module):
            return name
    for name in _LISTS:
        blocks = getattr(network, name, None)
        if isinstance(blocks, nn.ModuleList) and len(blocks):
            return f"{name}.{len(blocks) // 2}"
    inner = list(network.named_children())
    if len(inner) == 1:
        return f"{inner[0][0]}.{middle_block(inner[0][1])}"
    raise ValueError(
        f"{type(network).__name__} has none of {', '.join((*_MIDDLES, *_LISTS))}; name the block whose features the "
        "discriminator sees: bottleneck='...'"
    )


def all_blocks(network: nn.Module) -> tuple[str, ...]:
    """The names of all blocks of a transformer or a U-Net in the order of their calls, also inside of an adapter."""
    unet = [next((n for n in names if isinstance(getattr(network, n, None), nn.Module)), None) for names in _UNETS]
    lists = unet if all(unet) else [n for n in _LISTS if isinstance(getattr(network, n, None), nn.ModuleList)]
    found = []
    for name in lists:
        blocks = getattr(network, name)
        found += [f"{name}.{i}" for i in range(len(blocks))] if isinstance(blocks, nn.ModuleList) else [name]
    inner = list(network.named_children())
    if not found and len(inner) == 1:
        found = [f"{inner[0][0]}.{name}" for name in all_blocks(inner[0][1])]
    if not found:
        raise ValueError(
            f"{type(network).__name__} has none of {', '.join(_LISTS)}, and is no U-Net of down, middle and up; name "
            "the blocks whose features the discriminator sees: blocks=('...', ...)"
        )
    return tuple(found)


@contextmanager
def watched(network: nn.Module, blocks: Sequence[str]) -> Iterator[list[Tensor]]:
    """``with watched(network, names) as features``: after a call within it, what each block gave, in this order."""
    features: list[Tensor] = [torch.empty(0)] * len(blocks)

    def keep(place):
        def hook(*call) -> None:
            features[place] = output_of(*call)

        return hook

    hooks = [
        network.get_submodule(name).register_forward_hook(keep(i), with_kwargs=True) for i, name in enumerate(blocks)
    ]
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()


def block_features(network: nn.Module, blocks: Sequence[str], *arguments, **conditioning) -> list[Tensor]:
    """What the blocks of these names give in a call of the network: tokens [b, n, c], maps [b, c, h, w] or [b, c]."""
    with watched(network, blocks) as features:
        network(*arguments, **conditioning)
    return features


class Watched(nn.Module):
    """A diffusion network that also tells what its blocks give: ``forward(x, t, features=True, **conditioning)``.

    So features are an output of the module itself: of a network in shards, gradients through it need that.
    """

    def __init__(self, network: nn.Module, blocks: Sequence[str]):
        super().__init__()
        self.network, self.blocks = network, tuple(blocks)

    def forward(self, x: Tensor, t: Tensor, features: bool = False, **conditioning) -> Tensor | list[Tensor]:
        if features:
            return block_features(self.network, self.blocks, x, t, **conditioning)
        return self.network(x, t, **conditioning)


@torch.no_grad()
def block_widths(network: nn.Module, blocks: Sequence[str], *example) -> list[int]:
    """How many channels the blocks' features have: linear layers say it, others are found out by a call on ``example``.

    ValueError where there is no example.
    """
    modules = [network.get_submodule(name) for name in blocks]
    if all(isinstance(m, nn.Linear) for m in modules):
        return [m.out_features for m in modules]
    if not example:
        raise ValueError(
            f"how wide the features of {type(network).__name__} are cannot be found out by a call; say it: width=... "
            "(widths=(...) where there are several blocks)"
        )
    return [f.shape[1 if f.dim() == 4 else -1] for f in block_features(network, blocks, *example)]


def example_of(network: nn.Module) -> tuple[Tensor, ...]:
    """(x, t) for a call of a network that has ``channels`` and ``size``, as pyaccel's own have; otherwise nothing."""
    if not hasattr(network, "channels") or not hasattr(network, "size"):
        return ()
    like = next(network.parameters())
    return like.new_zeros(1, network.channels, network.size, network.size), like.new_ones(1)
