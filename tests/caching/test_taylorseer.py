import pytest
import torch

from pyaccel import caching, solvers, zoo


@pytest.fixture(scope="module")
def runs():
    denoiser = zoo.load("fashion-dit")
    noise, label = torch.randn(24, 1, 28, 28, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 10
    plan = solvers.unipc(denoiser.schedule, 20)
    uncached = plan.sample(denoiser, noise, label=label)

    def error(interval, order):
        with caching.taylorseer(denoiser.model, interval=interval, order=order):
            return float((plan.sample(denoiser, noise, label=label) - uncached).square().mean().sqrt())

    return error


@pytest.mark.parametrize("interval", [3, 4, 5, 6])
def test_second_order_is_nearer_to_the_uncached_run_than_reuse(runs, interval):
    assert runs(interval, 2) < runs(interval, 0)


@pytest.mark.parametrize("options", [{"interval": 0}, {"order": -1}, {"warmup": 0}, {"order": 2.5}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="whole number"):
        caching.taylorseer(zoo.load_model("fashion-dit"), **options)
