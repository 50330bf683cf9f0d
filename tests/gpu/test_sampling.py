"""Whole runs on a GPU: what the CPU gives, from the same noise and seeds."""

import pytest
import torch

import pyaccel
from pyaccel import caching, solvers, zoo
from pyaccel.ops import backend


@pytest.fixture(scope="module")
def fashion():
    return zoo.load("fashion-dit")


def samples(denoiser, device, plan, **options):
    noise = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1)).to(device)
    labels = torch.arange(4, device=device)
    return plan.sample(denoiser, noise, label=labels, **options).cpu()


def test_runs_of_the_cpu(gpu, fashion):
    """Each stochastic plan too: its noise is that of the seeds, on every device."""
    try:
        for name, options in {"unipc": {"order": 3}, "dpmpp": {"order": 2}, "dpmpp_sde": {}, "heun": {}}.items():
            plan = getattr(solvers, name)(fashion.schedule, steps=6, **options)
            seeds = {"seed": 5} if plan.stochastic else {}
            fashion.model.cpu()
            expected = samples(fashion, torch.device("cpu"), plan, **seeds)
            fashion.model.to(gpu)
            torch.testing.assert_close(samples(fashion, gpu, plan, **seeds), expected, rtol=1e-3, atol=1e-3)
    finally:
        fashion.model.cpu()


def test_caches(gpu, fashion):
    plan = solvers.euler(fashion.schedule, steps=12)
    try:
        for method, options in [
            (caching.taylorseer, {"interval": 3, "order": 2}),
            (caching.taylorseer, {"interval": 3, "order": 2, "memory": "int8"}),
            (caching.taylorseer, {"interval": 3, "order": 2, "where": "last_block"}),
            (caching.fbcache, {"threshold": 0.1}),
        ]:
            fashion.model.cpu()
            with method(fashion.model, **options):
                expected = samples(fashion, torch.device("cpu"), plan)
            fashion.model.to(gpu)
            with method(fashion.model, **options):
                found = samples(fashion, gpu, plan)
            torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    finally:
        fashion.model.cpu()


def test_captured_runs_give_the_same_bits(gpu, fashion):
    if backend.choose(gpu) != "native":
        pytest.skip("the executor's combinations are Triton's own there, and round otherwise")
    noise, label = torch.randn(4, 1, 28, 28, device=gpu), torch.arange(4, device=gpu)
    try:
        fashion.model.to(gpu)
        for name, options in {"euler": {}, "unipc": {"order": 3}, "dpmpp_sde": {}, "heun": {}, "epd": {}}.items():
            plan = getattr(solvers, name)(fashion.schedule, steps=8, **options)
            run = plan.capture(fashion, torch.zeros_like(noise), label=torch.zeros_like(label))
            seeds = {"seed": 3} if plan.stochastic else {}
            for x in (noise, -noise):
                with torch.no_grad():
                    assert torch.equal(run(x, label=label, **seeds), plan.sample(fashion, x, label=label, **seeds)), (
                        name
                    )
        plan = solvers.euler(fashion.schedule, steps=9)
        with caching.taylorseer(fashion.model, interval=3, order=2), torch.no_grad():
            run = plan.capture(fashion, torch.zeros_like(noise), label=torch.zeros_like(label))
            assert torch.equal(run(noise, label=label), plan.sample(fashion, noise, label=label))
    finally:
        fashion.model.cpu()


def test_fused_blocks_of_diffusers(gpu):
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.DiTTransformer2DModel(
        sample_size=16, num_layers=3, attention_head_dim=64, num_attention_heads=4, in_channels=4, out_channels=8
    ).eval().requires_grad_(False).to(gpu)  # fmt: skip
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    given = {
        "hidden_states": torch.randn(2, 4, 16, 16, device=gpu),
        "timestep": torch.tensor([10, 20], device=gpu),
        "class_labels": torch.tensor([1, 2], device=gpu),
    }
    expected = model(**given).sample
    pyaccel.accelerate(model, scheduler=False, fuse=True)
    found = model(**given).sample
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
