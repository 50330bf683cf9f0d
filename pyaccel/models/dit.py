"""A small class-conditional Diffusion Transformer (DiT, Peebles & Xie 2023, adaLN-zero)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .. import ops
from .layers import Conditioning, GatedBranch, sinusoidal_embedding


class Attention(nn.Module):
    """Multi-head self-attention, [B, tokens, width] -> the same."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, w = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(ops.attention(q, k, v).transpose(1, 2).reshape(b, n, w))


class DiTBlock(nn.Module):
    """Attention and MLP, each a gated branch whose shift, scale and gate come from the conditioning."""

    def __init__(self, width: int, heads: int, mlp_ratio: int = 4):
        super().__init__()
        hidden = mlp_ratio * width
        self.attention = GatedBranch(width, Attention(width, heads))
        self.mlp = GatedBranch(
            width, nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        )
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c)[:, None].chunk(6, dim=-1)
        x = self.attention(x, shift_a, scale_a, gate_a)
        return self.mlp(x, shift_m, scale_m, gate_m)


class DiT(nn.Module):
    """``forward(x, t, label)``: x [B, channels, size, size], t [B] in [0, 1], label [B] or None -> like x.

    The label ``classes`` means "no label" (classifier-free guidance). With ``second_time`` there is one more argument,
    the time ``to`` [B] of flow maps, with ``guided`` the weight ``guidance`` [B] (see :class:`.layers.Conditioning`).
    """

    def __init__(
        self,
        size: int = 28,
        patch: int = 4,
        channels: int = 1,
        width: int = 128,
        depth: int = 10,
        heads: int = 4,
        classes: int = 10,
        second_time: bool = False,
        guided: bool = False,
    ):
        super().__init__()
        if size % patch or width % heads or width % 4:
            raise ValueError(
                f"DiT: patch {patch} must divide size {size}, heads {heads} must divide width {width}, and 4 too"
            )
        self.size, self.patch, self.channels, self.classes = size, patch, channels, classes
        self.embed = nn.Linear(channels * patch * patch, width)
        self.register_buffer("position", _grid_embedding(size // patch, width), persistent=False)
        self.conditioning = Conditioning(width, classes)
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels * patch * patch)
        self.initialise()
        if second_time:  # after the rest, so that it begins as zero
            self.add_second_time()
        if guided:
            self.add_guidance()

    def initialise(self) -> None:
        """Random weights, as before any training."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.conditioning.label.weight, std=0.02)
        # adaLN-zero: every block starts as the identity and the output as zero.
        for zero in (*(b.modulation for b in self.blocks), self.modulation, self.head):
            nn.init.zeros_(zero.weight)

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
        p = self.patch
        # Patches as F.unfold gives them, but as a view and one copy.
        tokens = x.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        h = self.embed(tokens) + self.position
        c = F.silu(self.conditioning(t, label, to, guidance))
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=-1)
        out = self.head(torch.addcmul(shift, self.norm(h), 1 + scale))
        side = self.size // p
        out = out.unflatten(1, (side, side)).unflatten(3, (self.channels, p, p))
        return out.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.channels, self.size, self.size)


def _grid_embedding(side: int, width: int) -> torch.Tensor:
    """Fixed sine-cosine embedding of a square grid of patches, [side², width]."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    halves = [sinusoidal_embedding(axis.reshape(-1), width // 2) for axis in (rows, columns)]
    return torch.cat(halves, dim=-1)
