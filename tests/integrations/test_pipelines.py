"""Pipelines before, during and after ``accelerate``, without a cache: the images are the same."""

import pytest
import torch

import pyaccel

from .pipelines import EXAMPLES, numbers

# Float32 rounding of six steps, relative to the largest value: 4e-7 at the most in any of these pipelines; sums are
# formed in another order.
ROUNDING = 2e-6

every_pipeline = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


def assert_same(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= ROUNDING * b.abs().max()


@every_pipeline
def test_images_stay_the_same(example):
    pipe = example.pipe()
    scheduler, config = pipe.scheduler, dict(pipe.config)
    before = example.run(pipe)
    assert before.isfinite().all()
    assert before.std() > 0.1

    assert pyaccel.accelerate(pipe) is pipe
    assert pipe.scheduler is not scheduler
    assert isinstance(pipe.scheduler, type(scheduler))
    during = example.run(pipe)
    assert_same(during, before)
    assert torch.equal(example.run(pipe), during)
    assert "12 fused steps, 0 by the original" in str(pyaccel.summary(pipe)) or "img2img" in example.name
    assert_same(example.run(pipe, seed=1), example.run(example.pipe(), seed=1))

    assert pyaccel.restore(pipe) is pipe
    assert pipe.scheduler is scheduler
    assert dict(pipe.config) == config
    assert torch.equal(example.run(pipe), before)


@every_pipeline
def test_without_guidance_and_with_more_steps(example):
    plain, fused = example.pipe(), pyaccel.accelerate(example.pipe())
    for changes in ({example.scale: 1.0}, {"num_inference_steps": 9}, {example.scale: 1.0, "seed": 3}):
        assert_same(example.run(fused, **changes), example.run(plain, **changes))


# Some pipelines do not repeat embeddings that they are handed.
@pytest.mark.parametrize(("name", "prompts"), [("stable-diffusion", 2), ("sdxl", 2), ("sd3", 4), ("flux", 4)])
def test_of_several_prompts_with_a_generator_for_each_image(name, prompts):
    example = EXAMPLES[name]
    plain, fused = example.pipe(), pyaccel.accelerate(example.pipe())
    embeddings = {key: value for key, value in example.arguments().items() if "embeds" in key}
    several = {key: torch.cat([value + 0.1 * n for n in range(prompts)]) for key, value in embeddings.items()}

    def call(pipe):
        generators = [torch.Generator().manual_seed(n) for n in range(4)]
        return example.run(pipe, num_images_per_prompt=4 // prompts, generator=generators, **several)

    images = call(fused)
    assert len(images) == 4
    assert_same(images, call(plain))


def test_callbacks_edit_the_latents_and_interrupt():
    example = EXAMPLES["stable-diffusion"]

    def edit(pipe, step, time, tensors):
        return {"latents": tensors["latents"] * 0.9 + 0.01 * step}

    def stop(pipe, step, time, tensors):
        pipe._interrupt = step == 2
        return tensors

    plain, fused = example.pipe(), pyaccel.accelerate(example.pipe())
    for callback in (edit, stop, None):
        images = [example.run(pipe, callback_on_step_end=callback) for pipe in (plain, fused)]
        assert_same(*reversed(images))
    assert "by the original" in str(pyaccel.summary(fused))


def test_guidance_rescale_eta_and_custom_timesteps():
    example = EXAMPLES["stable-diffusion"]
    plain, fused = example.pipe(), pyaccel.accelerate(example.pipe())
    for changes in (
        {"guidance_rescale": 0.7},
        {"timesteps": [900, 600, 500, 200, 50]},
        {"latents": numbers(1, 4, 8, 8, seed=9)},
    ):
        assert_same(example.run(fused, **changes), example.run(plain, **changes))


def test_an_error_halfway_leaves_a_pipeline_that_works():
    example = EXAMPLES["stable-diffusion"]
    plain, fused = example.pipe(), pyaccel.accelerate(example.pipe())

    def fail(pipe, step, time, tensors):
        if step == 3:
            raise KeyboardInterrupt
        return tensors

    with pytest.raises(KeyboardInterrupt):
        example.run(fused, callback_on_step_end=fail)
    assert_same(example.run(fused), example.run(plain))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["sd3", "stable-diffusion"])
def test_half_precision(name, dtype):
    example = EXAMPLES[name]
    pipe = example.pipe().to(dtype=dtype)
    half = {key: value.to(dtype) for key, value in example.arguments().items() if "embeds" in key}
    before = example.run(pipe, **half).double()
    after = example.run(pyaccel.accelerate(pipe), **half).double()
    single = {key: value.float() for key, value in half.items()}
    exact = example.run(pyaccel.restore(pipe).to(dtype=torch.float32), **single).double()
    # Rounding differs, through six calls of the model: so both are held against the same weights in float32.
    distance, its = (after - exact).square().mean().sqrt(), (before - exact).square().mean().sqrt()
    assert distance <= 1.2 * its  # measured: equal, to two digits
