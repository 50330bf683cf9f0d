"""Features in pinned host memory on a GPU: the same bits as without, copies beside the computation, and the bytes."""

import pytest
import torch
from torch import nn

from pyaccel import caching
from pyaccel.denoiser import Run, StepContext, announce

STEPS = 13


class Layer(nn.Module):
    """A residual branch that takes long enough for copies to overlap with it."""

    def __init__(self, width: int):
        super().__init__()
        inner = 4 * width
        self.branch = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x):
        return x + 0.5 * self.branch(x)


class Model(nn.Module):
    """Layers one after the other; ``writes``: into what each of them returns."""

    def __init__(self, width: int, depth: int, writes: bool = False):
        super().__init__()
        self.layers, self.writes = nn.ModuleList(Layer(width) for _ in range(depth)), writes

    def forward(self, x, t):
        for layer in self.layers:
            x = layer(x)
            x = x.mul_(1.01) if self.writes else x * 1.01
        return x * t


def drive(model, xs):
    run, found = Run(), []
    for i, x in enumerate(xs):
        with torch.no_grad(), announce(StepContext(run, i, len(xs), 0.5)):
            found.append(model(x, 0.9))
    return found


def cache_of(model, **settings):
    sites = [caching.Site(f"layers.{i}", layer) for i, layer in enumerate(model.layers)]
    when, how = caching.every(4, after=2), caching.taylor(2)
    return caching.attach("offloaded", model, where=sites, when=when, how=how, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory", [None, "int8", "fp8", "bf16"])
def test_the_same_bits(gpu, memory, dtype):
    model = Model(512, 12).to(gpu, dtype).requires_grad_(False)
    for tokens, ahead in ((2048, True), (333, 1), (4096, 4)):
        xs = [torch.randn(2, tokens, 512, device=gpu, dtype=dtype) for _ in range(STEPS)]
        with cache_of(model, memory=memory) as plain:
            expected = drive(model, xs)
        for _ in range(2):
            with cache_of(model, memory=memory, offload=ahead) as cache:
                held = cache.estimate(xs[0], 0.9)
                found = drive(model, xs)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        summary = cache.summary()
        assert (summary.peak_bytes, summary.host_bytes) == (held, held.host)
        assert summary.host_bytes >= plain.summary().peak_bytes
        assert held == held.host * (1 + (2 if ahead is True else ahead)) // 12


def test_the_host_never_waits_and_nothing_is_allocated(gpu):
    """torch raises where a step synchronises; and a step after the first ones leaves the device's memory as it was."""
    model = Model(256, 8).to(gpu).requires_grad_(False)
    xs = [torch.randn(2, 512, 256, device=gpu) for _ in range(STEPS)]
    with cache_of(model, offload=True):
        run, held = Run(), []
        for i, x in enumerate(xs):
            with torch.no_grad(), announce(StepContext(run, i, STEPS, 0.5)):
                torch.cuda.set_sync_debug_mode("error" if i > 2 else "default")
                try:
                    model(x, 0.9)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            held.append(torch.cuda.memory_allocated())
    # Predicted steps and full ones; the weights of a prediction may be a few numbers on the device.
    assert max(held[4:]) - min(held[4:]) < xs[0].nbytes / 8


def test_the_device_holds_a_few_features_only(gpu):
    model = Model(256, 24).to(gpu).requires_grad_(False)
    xs = [torch.randn(4, 4096, 256, device=gpu) for _ in range(STEPS)]
    most = {}
    for offload in (False, True):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with cache_of(model, offload=offload):
            run = Run()
            for i, x in enumerate(xs):
                with torch.no_grad(), announce(StepContext(run, i, STEPS, 0.5)):
                    model(x, 0.9)
        most[offload] = torch.cuda.max_memory_allocated() - before
    features = 24 * 3 * xs[0].nbytes
    assert most[False] > features
    assert most[True] < features / 2


def test_another_stream_and_an_exception(gpu):
    model = Model(256, 6).to(gpu).requires_grad_(False)
    xs = [torch.randn(2, 1024, 256, device=gpu) for _ in range(STEPS)]
    with cache_of(model):
        expected = drive(model, xs)
    with cache_of(model, offload=1):
        with pytest.raises(RuntimeError):
            drive(model, [*xs[:5], torch.randn(2, 1024, 255, device=gpu)])
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            found = drive(model, xs)
        torch.cuda.current_stream().wait_stream(side)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_model_that_writes_into_its_features(gpu):
    """While they are on their way to the host."""
    model = Model(256, 6).to(gpu).requires_grad_(False)
    xs = [torch.randn(2, 2048, 256, device=gpu) for _ in range(STEPS)]
    with cache_of(model):
        expected = drive(model, xs)
    model.writes = True
    with cache_of(model, offload=True):
        assert all(torch.equal(a, b) for a, b in zip(drive(model, xs), expected, strict=True))
