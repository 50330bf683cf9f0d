"""Tiny models of every architecture that caches attach to: diffusers' from configs, and modules with the attributes of
the original DiT, SiT and EDM code bases. Always random weights; a call takes milliseconds.

An :class:`Architecture` builds its model, says how it is called at a time, and which sites are expected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, TEXT, TOKENS = 16, 16, 5


@dataclass(frozen=True)
class Architecture:
    """``inputs(x, t)`` are the keyword arguments of a call with sample ``x`` (of ``shape``) at ``t`` in [0, 1]."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    inputs: Callable[[torch.Tensor, float], dict]
    kinds: dict[str, int] = field(default_factory=dict)
    some_names: tuple[str, ...] = ()

    def model(self) -> nn.Module:
        """The model in eval mode, always with the same weights, none of them zero."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.build().eval().requires_grad_(False)
            for p in model.parameters():  # zero initialisation would hide what a cache does
                if not p.any():
                    p.normal_(std=0.1)
        return model

    def sample(self, seed: int = 0) -> torch.Tensor:
        """A random sample."""
        return numbers(*self.shape, seed=seed)

    def call(self, model: nn.Module, x: torch.Tensor, t: float) -> torch.Tensor:
        """The output of one call, as a tensor."""
        output = model(**self.inputs(x, t))
        return output if isinstance(output, torch.Tensor) else output[0]


def numbers(*shape: int, seed: int = 1) -> torch.Tensor:
    """Always the same normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _times(x: torch.Tensor, t: float) -> torch.Tensor:
    return torch.full((len(x),), 1000 * t)


def _text(x: torch.Tensor) -> torch.Tensor:
    return numbers(len(x), TOKENS, TEXT)


def _d():
    import diffusers

    return diffusers


def _dit_inputs(x, t):
    return {"hidden_states": x, "timestep": _times(x, t).long(), "class_labels": torch.zeros(len(x), dtype=torch.long)}


def _text_inputs(x, t):
    return {"hidden_states": x, "timestep": _times(x, t), "encoder_hidden_states": _text(x)}


def _unet_inputs(x, t):
    return {"sample": x, "timestep": _times(x, t), "encoder_hidden_states": _text(x)}


def _mask(x):
    return torch.ones(len(x), TOKENS)


HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}


def _pixart(sigma):
    model = _d().PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        num_layers=2,
        norm_num_groups=2,
        cross_attention_dim=24,
        sample_size=8,
        caption_channels=TEXT,
        use_additional_conditions=not sigma,
        interpolation_scale=1 if sigma else None,
    )
    return model


def _pixart_inputs(x, t):
    return _text_inputs(x, t) | {
        "added_cond_kwargs": {"resolution": torch.full((len(x), 2), 64.0), "aspect_ratio": torch.ones(len(x), 1)}
    }


def _flux_inputs(x, t):
    return {
        "hidden_states": x,
        "encoder_hidden_states": _text(x),
        "pooled_projections": numbers(len(x), TEXT, seed=2),
        "timestep": torch.full((len(x),), t),
        "img_ids": numbers(x.shape[1], 3),
        "txt_ids": torch.zeros(TOKENS, 3),
        "guidance": torch.full((len(x),), 3.5),
    }


def _hunyuan_inputs(x, t):
    return _text_inputs(x, t) | {
        "encoder_attention_mask": _mask(x).long(),
        "pooled_projections": numbers(len(x), TEXT, seed=2),
        "guidance": torch.full((len(x),), 3500.0),
    }


def _qwen_inputs(x, t):
    return {
        "hidden_states": x,
        "encoder_hidden_states": _text(x),
        "encoder_hidden_states_mask": _mask(x).long(),
        "timestep": torch.full((len(x),), t),
        "img_shapes": [[(1, 4, 4)]] * len(x),
    }


def _lumina_inputs(x, t):
    # As the pipeline makes it: frequencies for 384 x 384 positions of a head's two halves.
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    rotary = get_2d_rotary_pos_embed_lumina(8, 384, 384)
    return {
        "hidden_states": x,
        "timestep": torch.full((len(x),), 1 - t),
        "encoder_hidden_states": _text(x),
        "encoder_mask": _mask(x).long(),
        "image_rotary_emb": rotary,
        "cross_attention_kwargs": {},
    }


def _unet2d(**options):
    defaults = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    return defaults | options


def _unet_condition(**options):
    return _d().UNet2DConditionModel(
        **_unet2d(
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=TEXT,
            **options,
        )
    )


def _sdxl_inputs(x, t):
    added = {"text_embeds": numbers(len(x), TEXT, seed=2), "time_ids": torch.ones(len(x), 6)}
    return _unet_inputs(x, t) | {"added_cond_kwargs": added}


# -- the attribute structure of the original code bases ----------------------------------------------------------------


class TimmAttention(nn.Module):
    def __init__(self, width=WIDTH, heads=2):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TimmMlp(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class OriginalBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH, elementwise_affine=False), TimmAttention()
        self.norm2, self.mlp = nn.LayerNorm(WIDTH, elementwise_affine=False), TimmMlp()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x, c):
        a, b, g, d, e, h = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + g * self.attn(self.norm1(x) * (1 + b) + a)
        return x + h * self.mlp(self.norm2(x) * (1 + e) + d)


class OriginalDiT(nn.Module):
    """forward(x [B, tokens, WIDTH], t [B], y [B]) as DiT and SiT have it."""

    def __init__(self):
        super().__init__()
        self.t_embedder = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.y_embedder = nn.Embedding(4, WIDTH)
        self.blocks = nn.ModuleList(OriginalBlock() for _ in range(3))
        self.final_layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, t, y):
        c = self.t_embedder(t[:, None].expand(-1, WIDTH)) + self.y_embedder(y)
        for block in self.blocks:
            x = block(x, c)
        return self.final_layer(x)


class EDMConv(nn.Module):
    """A convolution that is no nn.Conv2d, as EDM's."""

    def __init__(self, cin, cout, kernel):
        super().__init__()
        self.in_channels, self.out_channels = cin, cout
        self.weight = nn.Parameter(torch.randn(cout, cin, kernel, kernel) / (cin * kernel**2) ** 0.5)

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)


class EDMLinear(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.in_features, self.out_features = cin, cout
        self.weight = nn.Parameter(torch.randn(cout, cin) / cin**0.5)

    def forward(self, x):
        return x @ self.weight.t()


class UNetBlock(nn.Module):
    def __init__(self, cin, cout, attention=False):
        super().__init__()
        self.in_channels = cin
        self.norm0, self.conv0 = nn.GroupNorm(2, cin), EDMConv(cin, cout, 3)
        self.affine = EDMLinear(WIDTH, cout)
        self.norm1, self.conv1 = nn.GroupNorm(2, cout), EDMConv(cout, cout, 3)
        self.skip = EDMConv(cin, cout, 1) if cin != cout else None
        self.num_heads = int(attention)
        if attention:
            self.norm2, self.qkv, self.proj = nn.GroupNorm(2, cout), EDMConv(cout, 3 * cout, 1), EDMConv(cout, cout, 1)

    def forward(self, x, emb):
        h = self.conv0(F.silu(self.norm0(x))) + self.affine(emb)[:, :, None, None]
        x = self.conv1(F.silu(self.norm1(h))) + (self.skip(x) if self.skip is not None else x)
        if self.num_heads:
            q, k, v = self.qkv(self.norm2(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
            x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        return x


class SongUNet(nn.Module):
    """forward(x, noise_labels, class_labels) as EDM's networks have it; blocks in ModuleDicts."""

    def __init__(self):
        super().__init__()
        self.map_layer0, self.map_layer1 = EDMLinear(WIDTH, WIDTH), EDMLinear(WIDTH, WIDTH)
        enc = {"8x8_conv": EDMConv(3, 8, 3), "8x8_block0": (8, 8), "4x4_down": (8, 8), "4x4_block0": (8, 16, True)}
        dec = {"4x4_in0": (16, 16, True), "4x4_in1": (16, 16), "4x4_block0": (32, 16), "4x4_block1": (24, 16)}
        dec |= {"8x8_up": (16, 16), "8x8_block0": (24, 8), "8x8_block1": (16, 8), "8x8_aux_conv": EDMConv(8, 3, 3)}
        for name, layers in (("enc", enc), ("dec", dec)):
            made = {k: UNetBlock(*v) if isinstance(v, tuple) else v for k, v in layers.items()}
            setattr(self, name, nn.ModuleDict(made))

    def forward(self, x, noise_labels, class_labels=None):
        emb = F.silu(self.map_layer1(F.silu(self.map_layer0(noise_labels[:, None].expand(-1, WIDTH)))))
        skips = []
        for block in self.enc.values():
            x = block(x, emb) if isinstance(block, UNetBlock) else block(x)
            skips.append(x)
        for name, block in self.dec.items():
            if "aux" in name:
                return block(x)
            if x.shape[1] != block.in_channels:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, emb)


def _own_dit():
    from pyaccel.models import DiT

    return DiT(size=8, patch=4, width=16, depth=2, heads=2)


def _own_unet():
    from pyaccel.models import UNet

    return UNet(size=8, width=8, multipliers=(1, 2), blocks=1)


def _labelled(x, t):
    return {"x": x, "t": torch.full((len(x),), t), "label": torch.arange(len(x))}


def _lumina2():
    return _d().Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(32, 32, 32),
        cap_feat_dim=TEXT,
    )


ARCHITECTURES = [
    Architecture("own-DiT", _own_dit, (2, 1, 8, 8), _labelled, {"attention": 2, "mlp": 2}, ("blocks.1.mlp",)),
    Architecture("own-UNet", _own_unet, (2, 1, 8, 8), _labelled, {"resnet": 7}, ("middle", "down.0")),
    Architecture(
        "original-DiT",
        OriginalDiT,
        (2, 9, WIDTH),
        lambda x, t: {"x": x, "t": torch.full((len(x),), t), "y": torch.ones(len(x), dtype=torch.long)},
        {"attention": 3, "mlp": 3},
        ("blocks.0.attn", "blocks.2.mlp"),
    ),
    Architecture(
        "original-EDM",
        SongUNet,
        (2, 3, 8, 8),
        lambda x, t: {"x": x, "noise_labels": torch.full((len(x),), t)},
        {"resnet": 10},
        ("enc.8x8_block0", "dec.4x4_in0"),
    ),
    Architecture(
        "DiT",
        lambda: _d().DiTTransformer2DModel(**HEADS, in_channels=4, num_layers=2, norm_num_groups=2, sample_size=8),
        (2, 4, 8, 8),
        _dit_inputs,
        {"attention": 2, "mlp": 2},
        ("transformer_blocks.0.attn1", "transformer_blocks.1.ff"),
    ),
    Architecture("PixArt-alpha", lambda: _pixart(False), (2, 4, 8, 8), _pixart_inputs, {"attention": 4, "mlp": 2}),
    Architecture("PixArt-sigma", lambda: _pixart(True), (2, 4, 8, 8), _text_inputs, {"attention": 4, "mlp": 2}),
    Architecture(
        "SD3",
        lambda: _d().SD3Transformer2DModel(
            **HEADS,
            sample_size=8,
            in_channels=4,
            num_layers=2,
            joint_attention_dim=TEXT,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=TEXT,
            out_channels=4,
            pos_embed_max_size=8,
        ),
        (2, 4, 8, 8),
        lambda x, t: _text_inputs(x, t) | {"pooled_projections": numbers(len(x), TEXT, seed=2)},
        {"attention": 2, "mlp": 3},
        ("transformer_blocks.0.ff_context",),
    ),
    Architecture(
        "FLUX",
        lambda: _d().FluxTransformer2DModel(
            in_channels=8,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            pooled_projection_dim=TEXT,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        (2, 6, 8),
        _flux_inputs,
        {"attention": 2, "mlp": 4, "single": 2},
        ("single_transformer_blocks.1.proj_out",),
    ),
    Architecture(
        "Qwen-Image",
        lambda: _d().QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            axes_dims_rope=(4, 4, 8),
        ),
        (2, 16, 16),
        _qwen_inputs,
        {"attention": 2, "mlp": 4},
        ("transformer_blocks.1.txt_mlp",),
    ),
    Architecture(
        "Wan",
        lambda: _d().WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=TEXT,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        ),
        (1, 4, 2, 8, 8),
        _text_inputs,
        {"attention": 4, "mlp": 2},
        ("blocks.0.attn1", "blocks.1.ffn"),
    ),
    Architecture(
        "HunyuanVideo",
        lambda: _d().HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_single_layers=2,
            num_refiner_layers=1,
            text_embed_dim=TEXT,
            pooled_projection_dim=TEXT,
            rope_axes_dim=(2, 2, 4),
        ),
        (1, 4, 2, 8, 8),
        _hunyuan_inputs,
        {"attention": 2, "mlp": 3, "single": 2},
        ("single_transformer_blocks.0.proj_out",),
    ),
    Architecture(
        "CogVideoX",
        lambda: _d().CogVideoXTransformer3DModel(
            **HEADS,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=TEXT,
            num_layers=2,
            sample_width=8,
            sample_height=8,
            sample_frames=5,
            max_text_seq_length=TOKENS,
        ),
        (1, 2, 4, 8, 8),
        _text_inputs,
        {"attention": 2, "mlp": 2},
    ),
    Architecture(
        "LTX",
        lambda: _d().LTXVideoTransformer3DModel(
            **HEADS, in_channels=8, out_channels=8, cross_attention_dim=WIDTH, num_layers=2, caption_channels=TEXT
        ),
        (1, 8, 8),
        lambda x, t: (
            _text_inputs(x, t) | {"encoder_attention_mask": _mask(x), "num_frames": 2, "height": 2, "width": 2}
        ),
        {"attention": 4, "mlp": 2},
    ),
    Architecture(
        "Sana",
        lambda: _d().SanaTransformer2DModel(
            **HEADS,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=WIDTH,
            caption_channels=TEXT,
            sample_size=8,
        ),
        (2, 4, 8, 8),
        _text_inputs,
        {"attention": 4, "mlp": 2},
    ),
    Architecture(
        "Lumina-Next",
        lambda: _d().LuminaNextDiT2DModel(
            sample_size=8,
            hidden_size=16,
            num_layers=2,
            num_attention_heads=2,
            num_kv_heads=2,
            multiple_of=16,
            cross_attention_dim=TEXT,
        ),
        (2, 4, 8, 8),
        _lumina_inputs,
        {"attention": 4, "mlp": 2},
    ),
    Architecture(
        "Lumina-2",
        _lumina2,
        (2, 4, 8, 8),
        lambda x, t: (
            _text_inputs(x, t) | {"timestep": torch.full((len(x),), 1 - t), "encoder_attention_mask": _mask(x).bool()}
        ),
        {"attention": 4, "mlp": 4},
        ("layers.1.feed_forward",),
    ),
    Architecture(
        "AuraFlow",
        lambda: _d().AuraFlowTransformer2DModel(
            sample_size=8,
            num_mmdit_layers=1,
            num_single_dit_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            caption_projection_dim=WIDTH,
            pos_embed_max_size=16,
        ),
        (2, 4, 8, 8),
        _text_inputs,
        {"attention": 3, "mlp": 4},
        ("single_transformer_blocks.0.attn",),
    ),
    Architecture(
        "UNet2D",
        lambda: _d().UNet2DModel(
            **_unet2d(
                down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")
            )
        ),
        (2, 3, 8, 8),
        lambda x, t: {"sample": x, "timestep": _times(x, t)},
        {"resnet": 8, "attention": 4},
        ("mid_block.resnets.0", "up_blocks.0.attentions.1"),
    ),
    Architecture(
        "SD1.5",
        _unet_condition,
        (2, 4, 8, 8),
        _unet_inputs,
        {"resnet": 8, "attention": 8, "mlp": 4},
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn2",),
    ),
    Architecture(
        "SDXL",
        lambda: _unet_condition(
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            use_linear_projection=True,
            projection_class_embeddings_input_dim=TEXT + 24,
            transformer_layers_per_block=(1, 2),
        ),
        (2, 4, 8, 8),
        _sdxl_inputs,
        {"resnet": 8, "attention": 16, "mlp": 8},
    ),
]
BY_NAME = {a.name: a for a in ARCHITECTURES}
