"""Discriminators on the features of a diffusion network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """A diffusion network with a discriminator's head on the features of one of its blocks (DMD2, section 4.3).

    ``forward(x, t, **conditioning)`` gives (the network's output, logits [b]), larger for what looks real. The head
    sees tokens [b, n, c] or maps [b, c, h, w] one by one, and the logits are its mean over them.

    Args:
        network: a DiT, a U-Net or another, ``(x, t, **conditioning) -> output``.
        bottleneck: the name of the block; by default the middle one.
        width: of its features; found out by a call for pyaccel's own networks.
    """

    def __init__(self, network: nn.Module, bottleneck: str | None = None, width: int | None = None):
        super().__init__()
        self.network = network
        block = network.get_submodule(bottleneck or _middle(network))
        width = width or _width(network, block)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self._features: Tensor | None = None
        block.register_forward_hook(self._keep)

    def _keep(self, _module, _inputs, output) -> None:
        self._features = _features(output)

    def forward(self, x: Tensor, t: Tensor, **conditioning) -> tuple[Tensor, Tensor]:
        output = self.network(x, t, **conditioning)
        features, self._features = self._features, None
        if features.dim() == 4:
            features = features.flatten(2).transpose(1, 2)
        if features.dim() == 2:
            features = features[:, None]
        return output, self.head(features.to(self.head[1].weight.dtype)).mean((1, 2))


class SampleCritic(nn.Module):
    """A :class:`Critic` of samples without noise: ``forward(x, **conditioning)`` gives its logits [b].

    ``told`` is the model time at which its network is asked, that of hardly any noise.
    """

    def __init__(self, critic: Critic, told: float):
        super().__init__()
        self.critic, self.told = critic, told

    def forward(self, x: Tensor, **conditioning) -> Tensor:
        output, logits = self.critic(x, x.new_full((len(x),), self.told), **conditioning)
        # What comes behind the block is not needed; ranks that share gradients wait for one of each parameter.
        return logits + 0.0 * output.flatten(1).sum(1)


_LISTS = ("blocks", "transformer_blocks", "single_transformer_blocks", "layers", "hidden")
_MIDDLES = ("middle", "mid_block")


def _features(output) -> Tensor:
    """What a block gives: of several, the last tensor (a transformer of text and image gives the image's last)."""
    return output if isinstance(output, Tensor) else [o for o in output if isinstance(o, Tensor)][-1]


def _middle(network: nn.Module) -> str:
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
        return f"{inner[0][0]}.{_middle(inner[0][1])}"
    raise ValueError(
        f"{type(network).__name__} has none of {', '.join((*_MIDDLES, *_LISTS))}; name the block whose features the "
        "discriminator sees: bottleneck='...'"
    )


@torch.no_grad()
def _width(network: nn.Module, block: nn.Module) -> int:
    """How many features a block of one of our own networks gives at each place, by a call of it."""
    if isinstance(block, nn.Linear):
        return block.out_features
    if not hasattr(network, "channels") or not hasattr(network, "size"):
        raise ValueError(
            f"how wide the features of {type(network).__name__} are cannot be found out by a call; say it: width=..."
        )
    seen = []
    hook = block.register_forward_hook(lambda _module, _inputs, output: seen.append(_features(output)))
    like = next(network.parameters())
    network(like.new_zeros(1, network.channels, network.size, network.size), like.new_ones(1))
    hook.remove()
    return seen[0].shape[1 if seen[0].dim() == 4 else -1]
