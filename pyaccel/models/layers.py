"""Parts that the DiT and the U-Net share: embeddings of time and label, and the gated branch."""

from __future__ import annotations

import math

import torch
from torch import nn


def sinusoidal_embedding(position: torch.Tensor, dim: int, max_period: float = 10_000.0) -> torch.Tensor:
    """[N] positions of any scale -> [N, dim] cosines and sines (Vaswani et al. 2017); dim is even.

    They are float32, and float64 for positions of float64.
    """
    if position.dtype is not torch.float64:
        position = position.float()
    steps = torch.arange(dim // 2, device=position.device, dtype=position.dtype)
    angles = position[:, None] * torch.exp(-math.log(max_period) / (dim // 2) * steps)[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Conditioning(nn.Module):
    """Time in [0, 1] and label to one vector; the label ``classes`` stands for "none" and is learned by dropout.

    Returns [B, dim] for t [B] and label [B] (integers in 0..classes), or None for no label at all. With ``second_time``
    it also takes the time ``to`` [B] that a flow map leads to; what that adds is 0 until it is trained, and ``to`` None
    is t itself. With ``guided`` it takes the weight ``guidance`` [B] that its samples are to have, by default the
    attribute ``usual_guidance``; what that adds is 0 until it is trained. ValueError for either without it.
    """

    usual_guidance = 1.0

    def __init__(self, dim: int, classes: int, frequencies: int = 128, second_time: bool = False, guided: bool = False):
        super().__init__()
        self.dim, self.classes, self.frequencies = dim, classes, frequencies
        self.time = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(classes + 1, dim)
        self.interval: nn.Module | None = None
        self.strength: nn.Module | None = None
        if second_time:
            self.add_second_time()
        if guided:
            self.add_guidance()

    def add_second_time(self) -> None:
        """Makes it take ``to``; its output stays as it is."""
        if self.interval is None:
            self.interval = self._silent()

    def add_guidance(self) -> None:
        """Makes it take ``guidance``; its output stays as it is."""
        if self.strength is None:
            self.strength = self._silent()

    def _silent(self) -> nn.Module:
        """From sinusoids to a vector that is 0 until it is trained."""
        like = self.label.weight
        first, last = nn.Linear(self.frequencies, self.dim), nn.Linear(self.dim, self.dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(first, nn.SiLU(), last).to(like.device, like.dtype)

    def forward(
        self,
        t: torch.Tensor,
        label: torch.Tensor | None,
        to: torch.Tensor | None = None,
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if label is None:
            label = torch.full(t.shape, self.classes, dtype=torch.long, device=t.device)
        dtype = self.label.weight.dtype
        c = self.time(sinusoidal_embedding(1000 * t, self.frequencies).to(dtype)) + self.label(label)
        if self.interval is None and to is not None:
            raise ValueError("this network takes one time; one with second_time=True takes the time `to` as well")
        if self.strength is None and guidance is not None:
            raise ValueError("this network is not told the guidance; one with guided=True is")
        if self.interval is not None:
            # Slow waves, unlike those of t: derivatives by time go through them.
            gap = torch.zeros_like(t) if to is None else t - to
            c = c + self.interval(sinusoidal_embedding(16 * gap, self.frequencies).to(dtype))
        if self.strength is not None:
            beyond = (torch.full_like(t, self.usual_guidance) if guidance is None else guidance) - 1
            c = c + self.strength(sinusoidal_embedding(16 * beyond, self.frequencies).to(dtype))
        return c


class GatedBranch(nn.Module):
    """x + gate ⊙ f(LayerNorm(x)·(1 + scale) + shift): one adaLN-zero branch of a DiT block (Peebles & Xie 2023).

    ``compute`` is the expensive part, which a feature cache replaces; ``forward`` adds it to the residual. A cache may
    return a function ``(x, gate) -> x + gate ⊙ branch`` from it, which adds its prediction in the same pass.
    x is [B, tokens, width]; shift, scale and gate are [B, 1, width].
    """

    def __init__(self, width: int, function: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.function = function

    def compute(self, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The branch's output before the gate, [B, tokens, width]."""
        return self.function(torch.addcmul(shift, self.norm(x), 1 + scale))

    def forward(self, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        branch = self.compute(x, shift, scale)
        return torch.addcmul(x, gate, branch) if isinstance(branch, torch.Tensor) else branch(x, gate)
