"""A small class-conditional U-Net (Ho et al. 2020, with the adaptive group norm of Dhariwal & Nichol 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .dit import Attention
from .layers import Conditioning


class ResidualBlock(nn.Module):
    """x [B, cin, H, W] and c [B, dim] -> [B, cout, H, W]; optionally followed by self-attention over the pixels."""

    def __init__(self, cin: int, cout: int, dim: int, attention: bool):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, cin), nn.Conv2d(cin, cout, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, cout), nn.Conv2d(cout, cout, 3, padding=1)
        self.modulation = nn.Linear(dim, 2 * cout)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()
        self.attention_norm = nn.GroupNorm(8, cout) if attention else None
        self.attention = Attention(cout, heads=4) if attention else None

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(c)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale)))
        h = h + self.skip(x)
        if self.attention is not None:
            pixels = self.attention_norm(h).flatten(2).transpose(1, 2)
            h = h + self.attention(pixels).transpose(1, 2).reshape(h.shape)
        return h


class UNet(nn.Module):
    """``forward(x, t, label)``: x [B, channels, size, size], t [B] in [0, 1], label [B] or None -> like x.

    One resolution per entry of ``multipliers``, halved in between; attention at the lowest. ``size`` must be divisible
    by 2^(len(multipliers) − 1). The label ``classes`` means "no label". With ``second_time`` there is one more
    argument, the time ``to`` [B] of flow maps, with ``guided`` the weight ``guidance`` [B] (see
    :class:`.layers.Conditioning`).
    """

    def __init__(
        self,
        size: int = 28,
        channels: int = 1,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 2,
        classes: int = 10,
        second_time: bool = False,
        guided: bool = False,
    ):
        super().__init__()
        if size % 2 ** (len(multipliers) - 1):
            raise ValueError(f"UNet: size {size} must be divisible by {2 ** (len(multipliers) - 1)}")
        self.size, self.channels, self.classes = size, channels, classes
        dim = 4 * width
        self.conditioning = Conditioning(dim, classes, second_time=second_time, guided=guided)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        last = len(multipliers) - 1
        widths, c = [width], width
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.down.append(ResidualBlock(c, width * multiplier, dim, attention=level == last))
                c = width * multiplier
                widths.append(c)
            if level < last:
                self.downsample.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                widths.append(c)
        self.middle = ResidualBlock(c, c, dim, attention=True)
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(ResidualBlock(c + widths.pop(), width * multiplier, dim, attention=level == last))
                c = width * multiplier
            if level > 0:
                self.upsample.append(nn.Conv2d(c, c, 3, padding=1))
        self.levels, self.blocks = len(multipliers), blocks
        self.norm, self.last = nn.GroupNorm(8, c), nn.Conv2d(c, channels, 3, padding=1)
        self.initialise()

    def initialise(self) -> None:
        """Zero where a network begins as zero; the rest is torch's own."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.conv2.weight)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def add_second_time(self) -> None:
        """Makes it take ``to``; its output stays as it is."""
        self.conditioning.add_second_time()

    def add_guidance(self) -> None:
        """Makes it take ``guidance``; its output stays as it is."""
        self.conditioning.add_guidance()

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        label: torch.Tensor | None = None,
        to: torch.Tensor | None = None,
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        c = F.silu(self.conditioning(t, label, to, guidance))
        h = self.first(x)
        skips, blocks = [h], iter(self.down)
        for level in range(self.levels):
            for _ in range(self.blocks):
                h = next(blocks)(h, c)
                skips.append(h)
            if level < self.levels - 1:
                h = self.downsample[level](h)
                skips.append(h)
        h = self.middle(h, c)
        blocks = iter(self.up)
        for level in range(self.levels):
            for _ in range(self.blocks + 1):
                h = next(blocks)(torch.cat([h, skips.pop()], dim=1), c)
            if level < self.levels - 1:
                h = self.upsample[level](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.last(F.silu(self.norm(h)))
