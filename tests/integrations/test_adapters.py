"""LoRA, before and after ``accelerate``: layers are replaced, weights change, and caches and schedulers stay."""

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

import pyaccel

from .pipelines import EXAMPLES
from .speeds import speeds

NAMES = ["stable-diffusion", "sd3", "flux", "wan"]
some_pipelines = pytest.mark.parametrize("example", [EXAMPLES[name] for name in NAMES], ids=NAMES)
LAYERS = {
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "everything": "all-linear",
}


def models(pipe):
    return [getattr(pipe, name) for name in ("unet", "transformer", "transformer_2") if getattr(pipe, name, None)]


def add(pipe, name: str = "style", seed: int = 1, layers="attention") -> None:
    """Adds a LoRA with random weights, always the same."""
    for model in models(pipe):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=LAYERS[layers])
        model.add_adapter(config, adapter_name=name)


def each(pipe, method: str, *arguments) -> None:
    for model in models(pipe):
        getattr(model, method)(*arguments)


def far(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() > 0.01 * b.abs().max())


def near(a: torch.Tensor, b: torch.Tensor, by: float = 1e-4) -> bool:
    """Within ``by`` of the largest value: merging a LoRA and taking it out again rounds the weights."""
    return bool((a - b).abs().max() <= by * b.abs().max())


@speeds
@pytest.mark.parametrize("layers", LAYERS)
@some_pipelines
def test_either_order(example, layers, options):
    right = example.pipe()
    plain = example.run(right)
    add(right, layers=layers)
    styled = example.run(right)
    assert far(styled, plain)
    images = example.run(pyaccel.accelerate(right, **options))
    if not options:
        assert near(images, styled, 2e-6)

    pipe = pyaccel.accelerate(example.pipe(), **options)
    unstyled = example.run(pipe)
    add(pipe, layers=layers)
    assert torch.equal(example.run(pipe), images)
    each(pipe, "delete_adapters", "style")
    assert torch.equal(example.run(pipe), unstyled)
    add(pipe, layers=layers)
    assert torch.equal(pyaccel.restore(pipe) and example.run(pipe), styled)
    each(pipe, "unload_lora")
    assert torch.equal(example.run(pipe), plain)


@speeds
@some_pipelines
def test_load_choose_weigh_fuse_and_unload(example, options):
    """Everything is done to a pipeline that stays accelerated, and to one that is accelerated anew for each call."""
    source = example.pipe()
    add(source)
    weights = {
        f"transformer.{key}": value
        for key, value in get_peft_model_state_dict(models(source)[0], adapter_name="style").items()
    }
    pipe, other = pyaccel.accelerate(example.pipe(), **options), example.pipe()
    first = example.run(pipe)

    def load(p):
        for model in models(p):
            model.load_lora_adapter(dict(weights), prefix="transformer", adapter_name="loaded")

    def both(p):
        add(p, "second", seed=2)
        each(p, "set_adapters", ["loaded", "second"], [0.7, 0.4])

    last = None
    for change in (
        load,
        both,
        lambda p: each(p, "set_adapters", ["second"], [1.0]),
        lambda p: each(p, "disable_lora"),
        lambda p: each(p, "enable_lora"),
        lambda p: each(p, "fuse_lora"),
        lambda p: each(p, "unfuse_lora"),
        lambda p: each(p, "delete_adapters", ["second"]),
        lambda p: each(p, "unload_lora"),
    ):
        change(pipe)
        change(other)
        images = example.run(pipe)
        assert torch.equal(images, example.run(pyaccel.accelerate(other, **options)))
        pyaccel.restore(other)
        last = images
    assert near(last, first)
    pyaccel.restore(pipe)
    assert torch.equal(example.run(pipe), example.run(other))


@speeds
def test_by_the_pipelines_own_methods(options):
    """``load_lora_weights`` and the like, which take the models' hooks away and put them back."""
    example = EXAMPLES["stable-diffusion"]
    source = example.pipe()
    add(source)
    state = get_peft_model_state_dict(source.unet, adapter_name="style")
    weights = {f"unet.{key}": value for key, value in state.items()}
    right = example.pipe()
    right.load_lora_weights(dict(weights), adapter_name="style")
    images = example.run(pyaccel.accelerate(right, **options))
    pipe = pyaccel.accelerate(example.pipe(), **options)
    before = example.run(pipe)
    assert far(images, before)
    for _ in range(2):
        pipe.load_lora_weights(dict(weights), adapter_name="style")
        assert near(example.run(pipe), images)
        pipe.fuse_lora()
        assert near(example.run(pipe), images)
        pipe.unfuse_lora()
        pipe.unload_lora_weights()
        assert near(example.run(pipe), before)
