"""The transformer blocks of diffusers with fused norms: DiT, PixArt, SD3, FLUX, Wan, and the norms that others share.

Each function below is the ``forward`` of a class, written with ``ops.adaln_modulate`` and ``ops.gated_residual_adaln``;
it calls all submodules that the class calls but the plain norms.
"""

from __future__ import annotations

import inspect
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from .recipe import Recipe, kind_of

# ---- steps ----------------------------------------------------------------------------------------------------------


def _pieces(modulation: Tensor, count: int) -> tuple[Tensor, ...]:
    """[B, count·D] in ``count`` parts [B, D], contiguous as the kernels want them."""
    return modulation.unflatten(1, (count, -1)).transpose(0, 1).contiguous().unbind(0)


def _as_wide(x: Tensor, *others: Tensor | None) -> bool:
    """Whether torch's arithmetic of these would have the dtype of ``x``, as that of the fused operations has."""
    return reduce(torch.promote_types, (t.dtype for t in others if t is not None), x.dtype) == x.dtype


def _row(t: Tensor | None) -> Tensor | None:
    """[B, D] as [B, 1, D]."""
    return t.unsqueeze(1) if t is not None and t.dim() == 2 else t


def _options(norm: nn.Module) -> dict[str, Any]:
    return {"weight": norm.weight, "bias": getattr(norm, "bias", None), "norm": kind_of(norm), "eps": norm.eps}


def _modulated(norm: nn.Module, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    if _as_wide(x, scale, shift, norm.weight):
        return ops.adaln_modulate(x, scale, shift, **_options(norm))
    return norm(x) if scale is None else norm(x) * (1 + _row(scale)) + _row(shift)


def _gated(residual: Tensor, gate: Tensor | None, branch: Tensor) -> Tensor:
    if _as_wide(residual, gate, branch):
        return ops.gated_combination(residual, _row(gate), [branch], [1.0])
    return residual + (branch if gate is None else _row(gate) * branch)


def _gated_and_modulated(
    norm: nn.Module, residual: Tensor, gate: Tensor | None, branch: Tensor, scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    if _as_wide(residual, gate, branch, scale, shift, norm.weight):
        return ops.gated_residual_adaln(residual, gate, branch, scale, shift, **_options(norm))
    residual = _gated(residual, gate, branch)
    return residual, _modulated(norm, residual, scale, shift)


def _clipped(x: Tensor) -> Tensor:
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x


# ---- norms that are told the time -----------------------------------------------------------------------------------


def _zero(norm, x, timestep=None, class_labels=None, hidden_dtype=None, emb=None):
    """AdaLayerNormZero."""
    if norm.emb is not None:
        emb = norm.emb(timestep, class_labels, hidden_dtype=hidden_dtype)
    shift, scale, gate, *rest = _pieces(norm.linear(norm.silu(emb)), 6)
    return _modulated(norm.norm, x, scale, shift), gate, *rest


def _zero_single(norm, x, emb=None):
    """AdaLayerNormZeroSingle."""
    shift, scale, gate = _pieces(norm.linear(norm.silu(emb)), 3)
    return _modulated(norm.norm, x, scale, shift), gate


def _zero_x(norm, hidden_states, emb=None):
    """SD35AdaLayerNormZeroX: two modulations of one norm."""
    shift, scale, gate, *mlp, shift2, scale2, gate2 = _pieces(norm.linear(norm.silu(emb)), 9)
    first = _modulated(norm.norm, hidden_states, scale, shift)
    return first, gate, *mlp, _modulated(norm.norm, hidden_states, scale2, shift2), gate2


def _continuous(norm, x, conditioning_embedding):
    """AdaLayerNormContinuous."""
    scale, shift = _pieces(norm.linear(norm.silu(conditioning_embedding).to(x.dtype)), 2)
    return _modulated(norm.norm, x, scale, shift)


# ---- blocks ---------------------------------------------------------------------------------------------------------


def _unfit_block(block) -> str:
    if block._chunk_size is not None:
        return "its feed-forward is done in chunks"
    return "it embeds positions" if getattr(block, "pos_embed", None) is not None else ""


def _joint(block, hidden_states, encoder_hidden_states, temb, joint_attention_kwargs=None):
    """JointTransformerBlock, of SD3."""
    x, context, options = hidden_states, encoder_hidden_states, joint_attention_kwargs or {}
    h, gate, shift_mlp, scale_mlp, gate_mlp, *second = block.norm1(x, emb=temb)
    if block.context_pre_only:
        c = block.norm1_context(context, temb)
    else:
        c, c_gate, c_shift_mlp, c_scale_mlp, c_gate_mlp = block.norm1_context(context, emb=temb)
    branch, c_branch = block.attn(hidden_states=h, encoder_hidden_states=c, **options)
    if block.use_dual_attention:
        h2, gate2 = second
        x, gate, branch = _gated(x, gate, branch), gate2, block.attn2(hidden_states=h2, **options)
    x, h = _gated_and_modulated(block.norm2, x, gate, branch, scale_mlp, shift_mlp)
    x = _gated(x, gate_mlp, block.ff(h))
    if block.context_pre_only:
        return None, x
    context, c = _gated_and_modulated(block.norm2_context, context, c_gate, c_branch, c_scale_mlp, c_shift_mlp)
    return _gated(context, c_gate_mlp, block.ff_context(c)), x


def _flux(block, hidden_states, encoder_hidden_states, temb, image_rotary_emb=None, joint_attention_kwargs=None):
    """FluxTransformerBlock."""
    x, context, options = hidden_states, encoder_hidden_states, joint_attention_kwargs or {}
    h, gate, shift_mlp, scale_mlp, gate_mlp = block.norm1(x, emb=temb)
    c, c_gate, c_shift_mlp, c_scale_mlp, c_gate_mlp = block.norm1_context(context, emb=temb)
    branch, c_branch, *image_prompt = block.attn(
        hidden_states=h, encoder_hidden_states=c, image_rotary_emb=image_rotary_emb, **options
    )
    x, h = _gated_and_modulated(block.norm2, x, gate, branch, scale_mlp, shift_mlp)
    x = _gated(x, gate_mlp, block.ff(h))
    for branch in image_prompt:
        x = x + branch
    context, c = _gated_and_modulated(block.norm2_context, context, c_gate, c_branch, c_scale_mlp, c_shift_mlp)
    return _clipped(_gated(context, c_gate_mlp, block.ff_context(c))), x


def _flux_single(block, hidden_states, encoder_hidden_states, temb, image_rotary_emb=None, joint_attention_kwargs=None):
    """FluxSingleTransformerBlock."""
    tokens = encoder_hidden_states.shape[1]
    x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
    h, gate = block.norm(x, emb=temb)
    mlp = block.act_mlp(block.proj_mlp(h))
    branch = block.attn(hidden_states=h, image_rotary_emb=image_rotary_emb, **(joint_attention_kwargs or {}))
    x = _clipped(_gated(x, gate, block.proj_out(torch.cat([branch, mlp], dim=2))))
    return x[:, :tokens], x[:, tokens:]


def _basic(
    block,
    hidden_states,
    attention_mask=None,
    encoder_hidden_states=None,
    encoder_attention_mask=None,
    timestep=None,
    cross_attention_kwargs=None,
    class_labels=None,
    added_cond_kwargs=None,
):
    """BasicTransformerBlock where the time modulates it: of DiT ("ada_norm_zero") and PixArt ("ada_norm_single")."""
    options, x = dict(cross_attention_kwargs or {}), hidden_states
    if x.dim() != 3 or "gligen" in options:
        return NotImplemented
    zero = block.norm_type == "ada_norm_zero"
    if zero:
        h, gate, shift_mlp, scale_mlp, gate_mlp = block.norm1(x, timestep, class_labels, hidden_dtype=x.dtype)
    else:
        modulation = block.scale_shift_table[None] + timestep.reshape(len(x), 6, -1)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = _pieces(modulation.flatten(1), 6)
        h = _modulated(block.norm1, x, scale, shift)
    context = encoder_hidden_states if block.only_cross_attention else None
    branch = block.attn1(h, encoder_hidden_states=context, attention_mask=attention_mask, **options)
    if block.attn2 is not None:
        if zero:
            x, h = _gated_and_modulated(block.norm2, x, gate, branch, None, None)
        else:  # PixArt has no norm before cross-attention
            x = h = _gated(x, gate, branch)
        gate = None
        branch = block.attn2(
            h, encoder_hidden_states=encoder_hidden_states, attention_mask=encoder_attention_mask, **options
        )
    norm = block.norm3 if zero else block.norm2
    x, h = _gated_and_modulated(norm, x, gate, branch, scale_mlp, shift_mlp)
    return _gated(x, gate_mlp, block.ff(h))


def _wan(block, hidden_states, encoder_hidden_states, temb, rotary_emb):
    """WanTransformerBlock: its sums are in float32 and come back in the dtype of the hidden states."""
    x, table = hidden_states, block.scale_shift_table
    if temb.dim() == 4:  # [B, L, 6, D]: a time for each token
        modulation = (table.unsqueeze(0) + temb.float()).movedim(2, 0)
    else:
        modulation = (table + temb.float()).transpose(0, 1)
    shift, scale, gate, c_shift, c_scale, c_gate = modulation.contiguous().unbind(0)
    h = ops.adaln_modulate(x, scale, shift, **_options(block.norm1))
    branch = block.attn1(h, None, None, rotary_emb)
    if type(block.norm2) is nn.Identity:
        x = h = ops.gated_combination(x, _row(gate), [branch], [1.0])
    else:
        x, h = ops.gated_residual_adaln(x, gate, branch, None, None, **_options(block.norm2))
    branch = block.attn2(h, encoder_hidden_states, None, None)
    x, h = ops.gated_residual_adaln(x, None, branch, c_scale, c_shift, **_options(block.norm3))
    return ops.gated_combination(x, _row(c_gate), [block.ffn(h)], [1.0])


# ---- all of them ---------------------------------------------------------------------------------------------------

_ROTARY = ("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb", "joint_attention_kwargs")
_BASIC = tuple(inspect.signature(_basic).parameters)[1:]

BLOCKS = {
    "diffusers.models.normalization.AdaLayerNormZero": Recipe(
        _zero, ("x", "timestep", "class_labels", "hidden_dtype", "emb"), ("norm",)
    ),
    "diffusers.models.normalization.AdaLayerNormZeroSingle": Recipe(_zero_single, ("x", "emb"), ("norm",)),
    "diffusers.models.normalization.SD35AdaLayerNormZeroX": Recipe(_zero_x, ("hidden_states", "emb"), ("norm",)),
    "diffusers.models.normalization.AdaLayerNormContinuous": Recipe(
        _continuous, ("x", "conditioning_embedding"), ("norm",)
    ),
    "diffusers.models.attention.JointTransformerBlock": Recipe(
        _joint,
        ("hidden_states", "encoder_hidden_states", "temb", "joint_attention_kwargs"),
        ("norm2", "norm2_context"),
        unfit=_unfit_block,
    ),
    "diffusers.models.transformers.transformer_flux.FluxTransformerBlock": Recipe(
        _flux, _ROTARY, ("norm2", "norm2_context")
    ),
    "diffusers.models.transformers.transformer_flux.FluxSingleTransformerBlock": Recipe(_flux_single, _ROTARY, ()),
    "diffusers.models.transformers.transformer_wan.WanTransformerBlock": Recipe(
        _wan, ("hidden_states", "encoder_hidden_states", "temb", "rotary_emb"), ("norm1", "norm2", "norm3"), ("norm2",)
    ),
    "diffusers.models.attention.BasicTransformerBlock/ada_norm_zero": Recipe(
        _basic, _BASIC, ("norm2", "norm3"), unfit=_unfit_block
    ),
    "diffusers.models.attention.BasicTransformerBlock/ada_norm_single": Recipe(
        _basic, _BASIC, ("norm1", "norm2"), unfit=_unfit_block
    ),
}
