"""Copies, pickles and saved folders of accelerated pipelines, and threads."""

import copy
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import diffusers
import pytest
import torch

import pyaccel
from pyaccel import caching

from .pipelines import EXAMPLES
from .speeds import CACHED, needs_caches, speeds

NAMES = ["stable-diffusion", "sdxl", "sd3", "flux", "wan"]
some_pipelines = pytest.mark.parametrize("example", [EXAMPLES[name] for name in NAMES], ids=NAMES)


@speeds
@some_pipelines
def test_deep_copies_are_independent(example, options):
    pipe = pyaccel.accelerate(example.pipe(), **options)
    images = example.run(pipe)
    other = copy.deepcopy(pipe)
    assert type(other.scheduler) is type(pipe.scheduler)
    assert other.scheduler is not pipe.scheduler
    assert torch.equal(example.run(other), images)

    assert not hasattr(pyaccel.restore(other).scheduler, "pyaccel_original")
    plain = example.run(example.pipe())
    assert torch.equal(example.run(other), plain)
    assert torch.equal(example.run(pipe), images)  # still accelerated
    pyaccel.restore(pipe)
    assert torch.equal(example.run(pipe), plain)


@speeds
def test_a_copy_between_two_steps_goes_on_by_itself(options):
    example = EXAMPLES["stable-diffusion"]
    pipe, copies = pyaccel.accelerate(example.pipe(), **options), []

    def copy_it(pipe, step, time, tensors):
        if step == 2:
            copies.append(copy.deepcopy(pipe))
        return tensors

    images = example.run(pipe, callback_on_step_end=copy_it)
    assert torch.equal(example.run(copies[0]), images)


@speeds
def test_shallow_copies_share_everything_and_cannot_restore(options):
    pipe = pyaccel.accelerate(EXAMPLES["stable-diffusion"].pipe(), **options)
    shallow = copy.copy(pipe)
    with pytest.raises(ValueError, match="not accelerated"):
        pyaccel.restore(shallow)
    pyaccel.restore(pipe)


@speeds
@some_pipelines
def test_pickles(example, options):
    pipe = pyaccel.accelerate(example.pipe(), **options)
    images = example.run(pipe)
    loaded = pickle.loads(pickle.dumps(pipe))
    assert torch.equal(example.run(loaded), images)
    pyaccel.restore(loaded)
    assert torch.equal(example.run(loaded), example.run(example.pipe()))
    pyaccel.restore(pipe)


@speeds
@some_pipelines
def test_saved_folders_are_those_of_the_original(example, options, tmp_path):
    plain, pipe = example.pipe(), pyaccel.accelerate(example.pipe(), **options)
    example.run(pipe)
    for name, thing in (("plain", plain), ("accelerated", pipe)):
        thing.save_pretrained(tmp_path / name)
    for file in ("model_index.json", "scheduler/scheduler_config.json"):
        before, after = (json.loads((tmp_path / name / file).read_text()) for name in ("plain", "accelerated"))
        assert before == after
    loaded = type(plain).from_pretrained(tmp_path / "accelerated", **_absent(plain))
    assert type(loaded.scheduler) is type(plain.scheduler)
    loaded.set_progress_bar_config(disable=True)
    # Loaded weights lie elsewhere in memory, which alone changes how matrices are multiplied.
    assert torch.allclose(example.run(loaded), example.run(plain), atol=1e-4)


def _absent(pipe) -> dict:
    return {name: None for name, part in pipe.components.items() if part is None}


@speeds
def test_to_another_dtype_and_device(options):
    example = EXAMPLES["sd3"]
    pipe = pyaccel.accelerate(example.pipe(), **options)
    images = example.run(pipe)
    assert pipe.to("cpu", torch.float64) is pipe
    wide = {key: value.double() for key, value in example.arguments().items() if "embeds" in key}
    assert example.run(pipe, **wide).dtype == torch.float64
    pipe.to(torch.float32)
    assert torch.equal(example.run(pipe), images)


@speeds
def test_threads_with_a_copy_each(options):
    example = EXAMPLES["stable-diffusion"]
    pipe = pyaccel.accelerate(example.pipe(), **options)
    right = [example.run(pipe, seed=seed) for seed in range(4)]
    pipes = [copy.deepcopy(pipe) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            images = list(pool.map(lambda seed: example.run(pipes[seed], seed=seed), range(4)))
            assert all(map(torch.equal, images, right))


@speeds
def test_a_thread_whose_run_another_one_ends_is_told(options):
    example = EXAMPLES["stable-diffusion"]
    pipe = pyaccel.accelerate(example.pipe(), **options)
    right = example.run(pipe, seed=1)
    halfway, other_is_done = threading.Event(), threading.Event()

    def wait(pipe, step, time, tensors):
        if step == 2:
            halfway.set()
            other_is_done.wait(timeout=20)
        return tensors

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: example.run(pipe, callback_on_step_end=wait))
        assert halfway.wait(timeout=20)
        images = example.run(pipe, seed=1)
        other_is_done.set()
        with pytest.raises(RuntimeError, match="two threads run one scheduler at once"):
            first.result(timeout=20)
    assert torch.equal(images, right)
    assert torch.equal(example.run(pipe, seed=1), right)  # and it works again


def test_threads_that_begin_together_are_right_or_told():
    example = EXAMPLES["stable-diffusion"]
    pipe = pyaccel.accelerate(example.pipe())
    right = [example.run(pipe, seed=seed, num_inference_steps=6 + seed) for seed in range(2)]
    for _ in range(3):
        results = _together(lambda seed: example.run(pipe, seed=seed, num_inference_steps=6 + seed), pipe)
        assert all(
            "two threads" in str(r) if isinstance(r, Exception) else torch.equal(r, images)
            for r, images in zip(results, right, strict=True)
        )
        assert torch.equal(example.run(pipe, seed=0), right[0])


def _together(call, pipe) -> list:
    """What two calls give, or raise, that wait for each other before the first call of the model."""
    barrier, model = threading.Barrier(2), pipe.unet

    def wait(*_):
        if getattr(met, "done", False) is False:
            met.done = True
            barrier.wait(timeout=5)

    def outcome(seed):
        try:
            return call(seed)
        except Exception as error:
            return error

    met = threading.local()
    handle = model.register_forward_pre_hook(wait)
    try:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(outcome, range(2)))
    finally:
        handle.remove()


def sharing(first):
    """A pipeline with the same models and a scheduler of its own."""
    parts = first.components | {"scheduler": copy.deepcopy(first.scheduler)}
    second = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    second.set_progress_bar_config(disable=True)
    return second


@speeds
def test_pipelines_that_share_their_models_one_after_the_other(options):
    example = EXAMPLES["stable-diffusion"]
    first = pyaccel.accelerate(example.pipe(), **options)
    second = sharing(first)
    right = example.run(first)
    for pipe in (second, first, second, second, first):
        assert torch.equal(example.run(pipe), right)


def test_pipelines_that_share_their_models_side_by_side():
    example = EXAMPLES["stable-diffusion"]
    first = pyaccel.accelerate(example.pipe())
    pipes = first, sharing(first)
    right = [example.run(first, seed=seed) for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert all(map(torch.equal, pool.map(lambda n: example.run(pipes[n], seed=n), range(2)), right))


@needs_caches
def test_pipelines_that_share_their_cached_models_side_by_side():
    example = EXAMPLES["stable-diffusion"]
    first = pyaccel.accelerate(example.pipe(), **CACHED)
    pipes = first, sharing(first)
    right = [example.run(first, seed=seed) for seed in range(2)]
    for _ in range(3):
        results = _together(lambda n: example.run(pipes[n], seed=n), first)
        assert all(isinstance(r, torch.Tensor) for r in results)
        assert all(map(torch.equal, results, right))


@needs_caches
def test_copies_have_caches_of_their_own():
    example = EXAMPLES["wan"]
    pipe = pyaccel.accelerate(example.pipe(), **CACHED)
    images = example.run(pipe)
    other = copy.deepcopy(pipe)
    before = str(pyaccel.summary(pipe))
    assert torch.equal(example.run(other), images)
    assert str(pyaccel.summary(pipe)) == before
    pyaccel.restore(pipe)
    assert torch.equal(example.run(other), images)
    assert torch.equal(example.run(copy.deepcopy(other)), images)  # a copy of a copy


@needs_caches
def test_copies_with_described_sites_and_with_a_ready_made_cache():
    example = EXAMPLES["sd3"]
    options = {name: value for name, value in CACHED.items() if name != "cache"}
    for ready_made in (False, True):
        pipe = example.pipe()
        sites = caching.branches(pipe.transformer)[:3]
        if ready_made:
            pyaccel.accelerate(pipe, cache=caching.taylorseer(pipe.transformer, where=sites, **options))
        else:
            pyaccel.accelerate(pipe, where=sites, **CACHED)
        images = example.run(pipe)
        other = copy.deepcopy(pipe)
        pyaccel.restore(pipe)
        assert torch.equal(example.run(other), images)
        plain = pyaccel.restore(other)
        assert not torch.equal(example.run(plain), images)
    pyaccel.accelerate(pipe, cache=caching.taylorseer(pipe.transformer))
    with pytest.raises(
        TypeError, match=r"a ready-made cache \(taylorseer.*cannot be pickled: give accelerate\(\) its name"
    ):
        pickle.dumps(pipe)


@needs_caches
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_bare_model_is_an_uncached_one(duplicate):
    pipe = EXAMPLES["sd3"].pipe()
    plain = EXAMPLES["sd3"].run(pipe)
    model = pyaccel.accelerate(pipe.transformer, interval=2, warmup=1)
    images = EXAMPLES["sd3"].run(pipe)
    pipe.transformer = duplicate(model)
    assert torch.equal(EXAMPLES["sd3"].run(pipe), plain)
    with pytest.raises(ValueError, match="not accelerated"):
        pyaccel.restore(pipe.transformer)
    pyaccel.accelerate(pipe.transformer, interval=2, warmup=1)
    assert torch.equal(EXAMPLES["sd3"].run(pipe), images)
    pipe.transformer = model
    assert torch.equal(EXAMPLES["sd3"].run(pipe), images)


@needs_caches
def test_a_cache_taken_off_by_hand():
    example = EXAMPLES["sd3"]
    pipe = example.pipe()
    made = caching.taylorseer(pipe.transformer, interval=2, warmup=1)
    pyaccel.accelerate(pipe, cache=made)
    made.detach()
    assert torch.equal(example.run(pipe), example.run(copy.deepcopy(pipe)))
    pyaccel.restore(pipe)
    assert torch.equal(example.run(pipe), example.run(example.pipe()))
