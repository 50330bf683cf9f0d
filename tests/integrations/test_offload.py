"""Offloading, before and after ``accelerate``: what diffusers and accelerate do to the models' ``forward``.

On a machine without a GPU everything is moved from the CPU to the CPU, by the same hooks. Sequential offload needs a
device of its own (accelerate keeps the weights on "meta" and cannot bring them back to a CPU), so its hooks are put on
every layer by themselves.
"""

import copy

import accelerate as hf_accelerate
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, attach_align_device_hook, remove_hook_from_submodules
from diffusers.hooks import apply_group_offloading

import pyaccel

from .pipelines import EXAMPLES
from .speeds import speeds

CPU = torch.device("cpu")
NAMES = ["stable-diffusion", "sd3", "flux", "wan"]
some_pipelines = pytest.mark.parametrize("example", [EXAMPLES[name] for name in NAMES], ids=NAMES)


def models_of(pipe):
    return [getattr(pipe, name) for name in ("unet", "transformer", "transformer_2") if getattr(pipe, name, None)]


def group_offload(pipe, **options):
    for model in models_of(pipe):
        apply_group_offloading(model, onload_device=CPU, **options)


def hook_on_every_layer(pipe):
    for model in models_of(pipe):
        attach_align_device_hook(model, execution_device="cpu", offload=False)


def hook_by_hand(pipe):
    for model in models_of(pipe):
        hf_accelerate.cpu_offload_with_hook(model, execution_device="cpu")


WAYS = {
    "model": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "blocks": lambda pipe: group_offload(pipe, offload_type="block_level", num_blocks_per_group=1),
    "leaves": lambda pipe: group_offload(pipe, offload_type="leaf_level"),
    "every-layer": hook_on_every_layer,
    "by-hand": hook_by_hand,
}
ways = pytest.mark.parametrize("offload", WAYS.values(), ids=WAYS)


@speeds
@ways
@some_pipelines
def test_either_order(example, offload, options):
    plain = example.run(example.pipe())
    right = pyaccel.accelerate(example.pipe(), **options)
    images = example.run(right)
    rows = pyaccel.summary(right).rows
    for first in ("offload", "accelerate"):
        pipe = example.pipe()
        if first == "offload":
            offload(pipe)
        pyaccel.accelerate(pipe, **options)
        if first == "accelerate":
            offload(pipe)
        assert torch.equal(example.run(pipe), images), first
        assert pyaccel.summary(pipe).rows == rows, first  # as many calls in full, as many steps fused
        # Model offload takes its hooks away at the end of a call and puts new ones there.
        assert torch.equal(example.run(pipe), images), first
        pyaccel.restore(pipe)
        assert torch.equal(example.run(pipe), plain), first


@speeds
def test_hooks_come_and_go(options):
    example = EXAMPLES["sd3"]
    plain = example.run(example.pipe())
    pipe = pyaccel.accelerate(example.pipe(), **options)
    images = example.run(pipe)
    for _ in range(2):
        pipe.enable_model_cpu_offload(device="cpu")
        assert torch.equal(example.run(pipe), images)
        pipe.remove_all_hooks()
        assert torch.equal(example.run(pipe), images)
        hook_on_every_layer(pipe)
        assert torch.equal(example.run(pipe), images)
        remove_hook_from_submodules(pipe.transformer)
        assert torch.equal(example.run(pipe), images)
    pyaccel.restore(pipe)
    assert torch.equal(example.run(pipe), plain)


@speeds
def test_hooks_from_before_go_while_accelerated(options):
    example = EXAMPLES["sd3"]
    plain = example.run(example.pipe())
    images = example.run(pyaccel.accelerate(example.pipe(), **options))
    pipe = example.pipe()
    hook_on_every_layer(pipe)
    pyaccel.accelerate(pipe, **options)
    assert torch.equal(example.run(pipe), images)
    remove_hook_from_submodules(pipe.transformer)
    assert torch.equal(example.run(pipe), images)
    pyaccel.restore(pipe)
    assert torch.equal(example.run(pipe), plain)
    assert "forward" not in vars(pipe.transformer)


@speeds
def test_hooks_from_after_stay_in_restore(options):
    example = EXAMPLES["sd3"]
    calls = []

    class Counts(AlignDevicesHook):
        def pre_forward(self, module, *args, **kwargs):
            calls.append(module)
            return super().pre_forward(module, *args, **kwargs)

    pipe = pyaccel.accelerate(example.pipe(), **options)
    hf_accelerate.hooks.add_hook_to_module(pipe.transformer, Counts(execution_device="cpu"))
    pyaccel.restore(pipe)
    plain = example.run(pipe)
    assert len(calls) == 6
    remove_hook_from_submodules(pipe.transformer)
    assert torch.equal(example.run(pipe), plain)
    assert torch.equal(example.run(example.pipe()), plain)


@speeds
@pytest.mark.parametrize("offload", [WAYS["model"], hook_on_every_layer, hook_by_hand])
def test_deep_copies(offload, options):
    """Group offload is left out: diffusers' own hooks cannot be copied."""
    example = EXAMPLES["sd3"]
    plain = example.run(example.pipe())
    for first in ("offload", "accelerate"):
        pipe = example.pipe()
        if first == "offload":
            offload(pipe)
        pyaccel.accelerate(pipe, **options)
        if first == "accelerate":
            offload(pipe)
        images = example.run(pipe)
        other = copy.deepcopy(pipe)
        pyaccel.restore(pipe)
        assert torch.equal(example.run(pipe), plain)
        assert torch.equal(example.run(other), images)
        pyaccel.restore(other)
        assert torch.equal(example.run(other), plain)
