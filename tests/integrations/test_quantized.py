"""Layers quantized by torchao, before and after ``accelerate``."""

import copy

import pytest
import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_

import pyaccel

from .pipelines import EXAMPLES
from .speeds import speeds

NAMES = ["stable-diffusion", "sd3", "flux", "wan"]
some_pipelines = pytest.mark.parametrize("example", [EXAMPLES[name] for name in NAMES], ids=NAMES)


def quantize(pipe) -> None:
    for name in ("unet", "transformer", "transformer_2"):
        if getattr(pipe, name, None) is not None:
            quantize_(getattr(pipe, name), Int8WeightOnlyConfig())


@speeds
@some_pipelines
def test_either_order(example, options):
    right = example.pipe()
    plain = example.run(right)
    quantize(right)
    small = example.run(right)
    assert 0 < (small - plain).abs().max() < 0.1 * plain.abs().max()
    images = example.run(pyaccel.accelerate(right, **options))
    if not options:
        assert (images - small).abs().max() <= 2e-6 * small.abs().max()

    pipe = pyaccel.accelerate(example.pipe(), **options)
    example.run(pipe)
    quantize(pipe)
    assert torch.equal(example.run(pipe), images)
    assert torch.equal(example.run(copy.deepcopy(pipe)), images)
    pyaccel.restore(pipe)
    assert torch.equal(example.run(pipe), small)
