"""``accelerate(fuse=True)``: the blocks of diffusers with fused norms give what they gave, and come back."""

import copy
import functools
import pickle
from collections import Counter

import diffusers
import pytest
import torch
from torch import nn

import pyaccel
from pyaccel import caching, models, ops
from tests.caching.architectures import _times, numbers

from .pipelines import EXAMPLES, TEXT
from .test_adapters import add, each, near
from .test_offload import WAYS

NAMES = ["dit", "pixart-sigma", "sd3", "flux", "wan"]
some_pipelines = pytest.mark.parametrize("example", [EXAMPLES[name] for name in NAMES], ids=NAMES)
FUSED = {"scheduler": False, "fuse": True}


def nonzero(model):
    """What begins as zeros or ones, such as affine norms, becomes random."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.numel() > 1 and (p == p.flatten()[0]).all():
                p.add_(0.1 * torch.randn_like(p))
    return model.eval().requires_grad_(False)


def text(x):
    return numbers(len(x), 5, TEXT)


def sd35():
    """SD3.5: two attentions in the first blocks, the last context ends before its MLP."""
    model = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=TEXT, caption_projection_dim=16, pooled_projection_dim=TEXT, out_channels=4,
        pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0, 1),
    )  # fmt: skip
    return model, (2, 4, 8, 8), lambda x: {
        "hidden_states": x, "timestep": _times(x, 0.4), "encoder_hidden_states": text(x).to(x.dtype),
        "pooled_projections": numbers(len(x), TEXT, seed=2).to(x.dtype),
    }  # fmt: skip


def flux():
    model = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT, pooled_projection_dim=TEXT, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    return model, (2, 12, 16), lambda x: {
        "hidden_states": x, "timestep": torch.full((len(x),), 0.4).to(x.dtype), "img_ids": numbers(12, 3),
        "encoder_hidden_states": text(x).to(x.dtype), "pooled_projections": numbers(len(x), TEXT, seed=2).to(x.dtype),
        "txt_ids": torch.zeros(5, 3), "guidance": torch.full((len(x),), 3.5).to(x.dtype),
    }  # fmt: skip


def wan(times_of_tokens=False, **options):
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=TEXT, freq_dim=16,
        ffn_dim=32, num_layers=2, rope_max_seq_len=32, **options,
    )  # fmt: skip
    times = (lambda x: 900 * torch.rand(len(x), 32)) if times_of_tokens else (lambda x: _times(x, 0.4))

    def inputs(x):
        torch.manual_seed(5)
        return {"hidden_states": x, "timestep": times(x), "encoder_hidden_states": text(x).to(x.dtype)}

    return model, (2, 4, 2, 8, 8), inputs


def pixart():
    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=3, attention_head_dim=8, num_layers=2, norm_num_groups=2, cross_attention_dim=24,
        sample_size=8, caption_channels=TEXT, interpolation_scale=1, use_additional_conditions=False,
    )  # fmt: skip
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    return model, (2, 4, 8, 8), lambda x: {
        "hidden_states": x, "timestep": _times(x, 0.4), "encoder_hidden_states": text(x).to(x.dtype),
        "encoder_attention_mask": mask, "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }  # fmt: skip


def dit():
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, out_channels=8, num_layers=2, norm_num_groups=2, sample_size=8
    )
    return model, (2, 4, 8, 8), lambda x: {
        "hidden_states": x, "timestep": _times(x, 0.4).long(), "class_labels": torch.tensor([1, 3]),
    }  # fmt: skip


WAN = {"WanTransformerBlock": 2, "WanAttention": 4}
MODELS = {
    "dit": (dit, {"BasicTransformerBlock": 2, "AdaLayerNormZero": 2}, (2, 2, 0)),
    "pixart": (pixart, {"BasicTransformerBlock": 2}, (2, 2, 0)),
    "sd3.5": (
        sd35,
        {"JointTransformerBlock": 3, "SD35AdaLayerNormZeroX": 2, "AdaLayerNormZero": 3, "AdaLayerNormContinuous": 2},
        (9, 5, 0),
    ),
    "flux": (
        flux,
        {"FluxTransformerBlock": 2, "FluxSingleTransformerBlock": 2, "AdaLayerNormZero": 4, "AdaLayerNormZeroSingle": 2,
         "FluxAttention": 4,
         "AdaLayerNormContinuous": 1},
        (7, 4, 6),
    ),
    "wan": (wan, WAN, (2, 4, 4)),
    "wan, no norm before cross-attention": (lambda: wan(cross_attn_norm=False), WAN, (2, 2, 4)),
    "wan, a time for each token": (lambda: wan(times_of_tokens=True), WAN, (2, 4, 4)),
}  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of the fused operations."""
    counts = Counter()
    for name in ("adaln_modulate", "gated_residual_adaln", "qk_norm_rope"):

        def counted(original, name, *args, **options):
            counts[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(ops, name, functools.partial(counted, getattr(ops, name), name))
    return counts


def fused_counts(thing) -> dict[str, int]:
    counts = Counter()
    for row in pyaccel.summary(thing).rows:
        if row.what == "fused blocks":
            for entry in row.done.split(", "):
                count, kind = entry.split()
                counts[kind] += int(count)
    return dict(counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_every_block_gives_what_it_gave(name, dtype, calls):
    make, expected, (modulated, gated, turned) = MODELS[name]
    torch.manual_seed(0)
    model, shape, inputs = make()
    model = nonzero(model)
    x = numbers(*shape)
    right = model.double()(**inputs(x.double()))[0]
    model = model.to(dtype)
    plain = model(**inputs(x.to(dtype)))[0]
    assert pyaccel.accelerate(model, fuse=True) is model
    found = model(**inputs(x.to(dtype)))[0]
    assert found.dtype is plain.dtype
    assert fused_counts(model) == expected
    assert calls == Counter(adaln_modulate=modulated, gated_residual_adaln=gated, qk_norm_rope=turned)
    assert [row.what for row in pyaccel.summary(model).rows] == ["fused blocks"]
    size = right.abs().max()
    if dtype in (torch.float32, torch.float64):
        assert (found - plain).abs().max() < 2e-6 * size
    else:  # it rounds less often, so it is not further from the truth
        error, before = ((t.double() - right).square().mean().sqrt() for t in (found, plain))
        assert error < 1.25 * before
    pyaccel.restore(model)
    assert torch.equal(model(**inputs(x.to(dtype)))[0], plain)
    assert not any("forward" in vars(m) for m in model.modules())


@some_pipelines
def test_pipelines(example):
    pipe = example.pipe()
    plain = example.run(pipe)
    pyaccel.accelerate(pipe, fuse=True)
    assert near(example.run(pipe), plain, 1e-5)
    assert pyaccel.summary(pipe).rows[0].what.endswith(", fused")
    assert fused_counts(pipe)
    pyaccel.restore(pipe)
    assert torch.equal(example.run(pipe), plain)


@some_pipelines
def test_copies_and_pickles(example):
    pipe = pyaccel.accelerate(example.pipe(), **FUSED)
    images, counts = example.run(pipe), fused_counts(pipe)
    plain = example.run(example.pipe())
    for other in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert fused_counts(other) == counts
        assert torch.equal(example.run(other), images)
        pyaccel.restore(other)
        assert torch.equal(example.run(other), plain)
        assert torch.equal(example.run(pipe), images)
    model = copy.deepcopy(pipe.transformer)  # a part alone: as it was before
    pyaccel.restore(pipe)
    pipe.transformer = model
    if len(example.denoisers) == 1:
        assert torch.equal(example.run(pipe), plain)


@pytest.mark.parametrize("layers", ["attention", "everything"])
@pytest.mark.parametrize("example", [EXAMPLES[name] for name in NAMES[2:]], ids=NAMES[2:])
def test_adapters_in_either_order(example, layers):
    right = example.pipe()
    add(right, layers=layers)
    styled = example.run(right)
    assert near(example.run(pyaccel.accelerate(right, **FUSED)), styled, 1e-5)
    pipe = pyaccel.accelerate(example.pipe(), **FUSED)
    before = example.run(pipe)
    add(pipe, layers=layers)
    assert torch.equal(example.run(pipe), example.run(right))
    each(pipe, "delete_adapters", "style")
    assert torch.equal(example.run(pipe), before)
    add(pipe, layers=layers)
    pyaccel.restore(pipe)
    assert torch.equal(example.run(pipe), styled)


@pytest.mark.parametrize(
    "cache",
    [
        {"cache": "taylorseer", "interval": 2, "order": 1, "warmup": 1},
        {"cache": "fora", "interval": 2},
        {"cache": "fbcache", "threshold": 0.3},
        {"cache": "delta_dit", "steps": 6},
        {"cache": "teacache", "threshold": 0.2},
    ],
    ids=lambda options: options["cache"],
)
@some_pipelines
def test_with_caches(example, cache):
    cached = pyaccel.accelerate(example.pipe(), scheduler=False, **cache)
    plain, rows = example.run(cached), pyaccel.summary(cached).rows
    pipe = pyaccel.accelerate(example.pipe(), **FUSED, **cache)
    found = example.run(pipe)
    assert near(found, plain, 1e-4)
    assert fused_counts(pipe)
    assert [row for row in pyaccel.summary(pipe).rows if row.what not in ("fused blocks", "left alone")] == list(rows)
    assert torch.equal(example.run(copy.deepcopy(pipe)), found)
    pyaccel.restore(pipe)
    assert torch.equal(example.run(pipe), example.run(example.pipe()))


@pytest.mark.parametrize("offload", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("first", ["offload", "accelerate"])
@pytest.mark.parametrize("example", [EXAMPLES[name] for name in NAMES[2:]], ids=NAMES[2:])
def test_offloading_in_either_order(example, first, offload):
    plain, pipe = example.run(example.pipe()), example.pipe()
    if first == "offload":
        offload(pipe)
    pyaccel.accelerate(pipe, **FUSED)
    if first == "accelerate":
        offload(pipe)
    assert near(example.run(pipe), plain, 1e-5)
    assert near(example.run(pipe), plain, 1e-5)
    if offload is WAYS["model"]:
        assert fused_counts(pipe)
        assert left(pipe) == []
    pyaccel.restore(pipe)
    assert torch.equal(example.run(pipe), plain)


def test_a_cache_that_was_there_before_is_not_passed_by():
    example = EXAMPLES["sd3"]
    pipe = example.pipe()
    with caching.fbcache(pipe.transformer, threshold=0.3):
        plain = example.run(pipe)
        pyaccel.accelerate(pipe, **FUSED)
        assert near(example.run(pipe), plain, 1e-4)
        pyaccel.restore(pipe)
    assert torch.equal(example.run(pipe), example.run(example.pipe()))


# ---- what is left alone ---------------------------------------------------------------------------------------------


class OtherNorm(nn.LayerNorm):
    def forward(self, x):
        return 2 * super().forward(x)


def left(thing) -> list[str]:
    return [row.done for row in pyaccel.summary(thing).rows if row.what == "left alone"]


def test_another_norm_is_left_alone():
    model, shape, inputs = flux()
    model, x = nonzero(model), numbers(*shape)
    for block in model.transformer_blocks:
        block.norm2 = OtherNorm(32, elementwise_affine=False)
    plain = model(**inputs(x))[0]
    pyaccel.accelerate(model, fuse=True)
    assert near(model(**inputs(x))[0], plain, 2e-6)
    assert left(model) == [
        "transformer_blocks.0 and 1 more (FluxTransformerBlock): its norm2 is a OtherNorm, which is not known here"
    ]
    assert "FluxTransformerBlock" not in fused_counts(model)


@pytest.mark.parametrize("before", [True, False])
def test_hooks_on_norms_are_still_called(before):
    model, shape, inputs = wan()
    model, x = nonzero(model), numbers(*shape)
    plain = model(**inputs(x))[0]
    if not before:
        pyaccel.accelerate(model, fuse=True)
    seen = []
    handle = model.blocks[1].norm3.register_forward_hook(lambda module, args, result: seen.append(result))
    if before:
        pyaccel.accelerate(model, fuse=True)
    assert near(model(**inputs(x))[0], plain, 2e-6)
    assert len(seen) == 1
    assert left(model) == ["blocks.1 (WanTransformerBlock): its norm3 has a hook or a forward of its own"]
    assert fused_counts(model) == {"WanTransformerBlock": 1, "WanAttention": 4}
    handle.remove()
    if not before:
        assert left(model) == []
    pyaccel.restore(model)
    assert torch.equal(model(**inputs(x))[0], plain)


def test_a_replaced_forward_and_other_arguments(monkeypatch):
    model, shape, inputs = dit()
    model, x = nonzero(model), numbers(*shape)
    block = model.transformer_blocks[0]
    original = block.forward
    block.forward = lambda *args, **options: original(*args, **options) + 1
    plain = model(**inputs(x))[0]
    pyaccel.accelerate(model, fuse=True)
    assert left(model) == [
        "transformer_blocks.0 (BasicTransformerBlock): its forward was replaced before, by a cache or by hooks"
    ]
    assert near(model(**inputs(x))[0], plain, 2e-6)
    pyaccel.restore(model)

    def forward(self, hidden_states, another):
        raise AssertionError

    monkeypatch.setattr(diffusers.models.normalization.AdaLayerNormZero, "forward", forward)
    pyaccel.accelerate(model, fuse=True)
    assert "AdaLayerNormZero" not in fused_counts(model)
    assert any("other arguments" in line for line in left(model))


def test_calls_that_the_fused_forward_does_not_know(calls):
    model, shape, inputs = sd35()
    model, x = nonzero(model), numbers(*shape)
    for block in model.transformer_blocks:
        block.set_chunk_feed_forward(1, dim=1)
    plain = model(**inputs(x))[0]
    pyaccel.accelerate(model, fuse=True)
    assert near(model(**inputs(x))[0], plain, 2e-6)
    assert calls["gated_residual_adaln"] == 0
    assert calls["adaln_modulate"] == 9


def test_attention_with_fused_projections_or_another_processor(calls):
    class Processor(diffusers.models.transformers.transformer_flux.FluxAttnProcessor):
        pass

    model, shape, inputs = flux()
    model, x = nonzero(model), numbers(*shape)
    model.transformer_blocks[0].attn.set_processor(Processor())
    model.transformer_blocks[1].attn.fuse_projections()
    plain = model(**inputs(x))[0]
    pyaccel.accelerate(model, fuse=True)
    assert near(model(**inputs(x))[0], plain, 2e-6)
    assert calls["qk_norm_rope"] == 2
    assert left(model) == [
        "transformer_blocks.0.attn (FluxAttention): its processor is a Processor",
        "transformer_blocks.1.attn (FluxAttention): its projections are fused",
    ]
    model.single_transformer_blocks[0].attn.fuse_projections()  # and afterwards
    assert near(model(**inputs(x))[0], plain, 2e-6)
    assert len(left(model)) == 2
    assert "and 1 more" in left(model)[1]


def test_modulations_wider_than_the_hidden_states_keep_torchs_dtypes():
    """Where the sum of the residual and what is added has another dtype, as eager PyTorch gives it."""
    model = nonzero(pixart()[0]).bfloat16()
    block, x = model.transformer_blocks[0], numbers(2, 7, 24).bfloat16()
    for linear in [m for m in block.modules() if isinstance(m, nn.Linear)]:
        linear.register_forward_pre_hook(lambda m, args: (args[0].to(m.weight.dtype), *args[1:]))
    options = {"encoder_hidden_states": numbers(2, 5, 24).bfloat16(), "timestep": numbers(2, 6 * 24)}
    plain = block(x, **options)
    pyaccel.accelerate(model, fuse=True)
    found = block(x, **options)
    assert found.dtype is plain.dtype is torch.float32
    assert near(found, plain, 0.02)


def test_models_without_such_blocks():
    for model in (models.DiT(), nn.Linear(2, 2)):
        before = dict(vars(model))
        with pytest.raises(ValueError, match=f"none of the blocks of this {type(model).__name__} is of a class that"):
            pyaccel.accelerate(model, fuse=True)
        assert vars(model) == before
    pipe = EXAMPLES["stable-diffusion"].pipe()
    scheduler = pipe.scheduler
    with pytest.raises(ValueError, match="none of the blocks of this UNet2DConditionModel"):
        pyaccel.accelerate(pipe, fuse=True)
    assert pipe.scheduler is scheduler


# ---- gradients and torch.compile ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flux", "wan", "dit"])
def test_gradients(name):
    torch.manual_seed(0)
    model, shape, inputs = MODELS[name][0]()
    model = nonzero(model).double().requires_grad_(True)
    x, found = numbers(*shape).double(), []
    for fuse in (False, True):
        if fuse:
            pyaccel.accelerate(model, fuse=True)
        model.zero_grad()
        model(**inputs(x))[0].square().sum().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    largest = max(float(g.abs().max()) for g in found[0].values())  # some gradients, such as of a key's bias, are 0
    for parameter, right in found[0].items():
        torch.testing.assert_close(found[1][parameter], right, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("name", ["flux", "sd3.5", "wan"])
def test_compiled(name):
    torch.manual_seed(0)
    model, shape, inputs = MODELS[name][0]()
    model, x = nonzero(model), numbers(*shape)
    plain = model(**inputs(x))[0]
    pyaccel.accelerate(model, fuse=True)
    torch.compiler.reset()
    block = max(model.modules(), key=lambda m: len(m) if isinstance(m, nn.ModuleList) else 0)[0]
    block.compile(fullgraph=True, backend="aot_eager")
    assert near(model(**inputs(x))[0], plain, 1e-5)
