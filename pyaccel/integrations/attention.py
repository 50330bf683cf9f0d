"""The attention of FLUX and Wan in diffusers with fused norms and rotary embeddings of queries and keys.

Each function below does what the ``forward`` of a class does with its usual processor, by ``ops.qk_norm_rope``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from .recipe import Recipe, name_of


def _unfit_attention(attention) -> str:
    """For the processors of FLUX and Wan, with one eps and a projection each for queries, keys and values."""
    processor = type(attention.processor)
    if name_of(processor) not in _PROCESSORS:
        return f"its processor is a {processor.__name__}"
    if getattr(attention, "fused_projections", False):
        return "its projections are fused"
    if getattr(attention, "norm_q", None) is None or attention.norm_q.eps != attention.norm_k.eps:
        return "its norms differ"
    if name_of(processor) == _PROCESSORS[1] and attention.add_k_proj is not None:
        return "it attends to an image too"
    return ""


_PROCESSORS = (
    "diffusers.models.transformers.transformer_flux.FluxAttnProcessor",
    "diffusers.models.transformers.transformer_wan.WanAttnProcessor",
)


def _attend(attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, parallel) -> Tensor:
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    backend = attention.processor._attention_backend
    y = dispatch_attention_fn(q, k, v, attn_mask=mask, backend=backend, parallel_config=parallel)
    return y.flatten(2, 3).to(q.dtype)


def _flux_attention(
    attention, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None, **kwargs
):
    """FluxAttention with its FluxAttnProcessor: the text comes first, with norms and projections of its own."""
    x, context, both = hidden_states, encoder_hidden_states, attention.added_kv_proj_dim is not None
    if kwargs or both != (context is not None):
        return NotImplemented
    angles = (None, None) if image_rotary_emb is None else [t.to(x.device) for t in image_rotary_emb]
    tokens = context.shape[1] if both else 0

    def made(x, projections, norms, part):
        q, k, v = (project(x).unflatten(-1, (-1, attention.head_dim)) for project in projections)
        cos, sin = (t if t is None else t[part] for t in angles)
        return *ops.qk_norm_rope(q, k, norms[0].weight, norms[1].weight, cos, sin, eps=norms[0].eps), v

    projections = attention.to_q, attention.to_k, attention.to_v
    q, k, v = made(x, projections, (attention.norm_q, attention.norm_k), slice(tokens, None))
    if both:
        projections = attention.add_q_proj, attention.add_k_proj, attention.add_v_proj
        added = made(context, projections, (attention.norm_added_q, attention.norm_added_k), slice(tokens))
        q, k, v = (torch.cat(pair, dim=1) for pair in zip(added, (q, k, v), strict=True))
    y = _attend(attention, q, k, v, attention_mask, attention.processor._parallel_config)
    if not both:
        return y
    x = attention.to_out[1](attention.to_out[0](y[:, tokens:].contiguous()))
    return x, attention.to_add_out(y[:, :tokens].contiguous())


def _wan_attention(
    attention, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None, **kwargs
):
    """WanAttention with its WanAttnProcessor; in cross-attention nothing is turned."""
    if kwargs:
        return NotImplemented
    context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    q, k, v = attention.to_q(hidden_states), attention.to_k(context), attention.to_v(context)
    q, k, v = (t.unflatten(2, (attention.heads, -1)) for t in (q, k, v))
    angles, norms = rotary_emb or (None, None), (attention.norm_q, attention.norm_k)
    q, k = ops.qk_norm_rope(q, k, norms[0].weight, norms[1].weight, *angles, eps=norms[0].eps)
    parallel = attention.processor._parallel_config if encoder_hidden_states is None else None
    y = _attend(attention, q, k, v, attention_mask, parallel)
    return attention.to_out[1](attention.to_out[0](y))


ATTENTION = {
    "diffusers.models.transformers.transformer_flux.FluxAttention": Recipe(
        _flux_attention,
        ("hidden_states", "encoder_hidden_states", "attention_mask", "image_rotary_emb", "kwargs"),
        ("norm_q", "norm_k", "norm_added_q", "norm_added_k"),
        unfit=_unfit_attention,
    ),
    "diffusers.models.transformers.transformer_wan.WanAttention": Recipe(
        _wan_attention,
        ("hidden_states", "encoder_hidden_states", "attention_mask", "rotary_emb", "kwargs"),
        ("norm_q", "norm_k"),
        unfit=_unfit_attention,
    ),
}
