"""Discriminators on the features of a diffusion network."""

from __future__ import annotations

from torch import Tensor, nn

from .features import block_widths, example_of, middle_block, output_of


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
        bottleneck = bottleneck or middle_block(network)
        width = width or block_widths(network, [bottleneck], *example_of(network))[0]
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self._features: Tensor | None = None
        network.get_submodule(bottleneck).register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, *call) -> None:
        self._features = output_of(*call)

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
