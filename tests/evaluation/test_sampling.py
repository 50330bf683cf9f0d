import pytest
import torch

from pyaccel import caching, solvers, zoo
from pyaccel.evaluation.quality import rmse
from pyaccel.evaluation.sampling import fashion_quality, fashion_reference, generate, noise_seeds


@pytest.fixture(scope="module")
def denoiser():
    return zoo.load("fashion-dit")


def test_a_sample_depends_on_seed_and_index_alone(denoiser):
    plan = solvers.unipc(denoiser.schedule, 3)
    whole = generate(denoiser, plan, 7, seed=5)
    split = generate(denoiser, plan, 7, seed=5, batch=3)
    assert torch.equal(whole.labels, split.labels)
    torch.testing.assert_close(whole.images, split.images, rtol=0, atol=1e-4)
    assert not torch.allclose(whole.images, generate(denoiser, plan, 7, seed=6).images, atol=1e-2)


def test_labels_and_classes(denoiser):
    plan = solvers.ddim(denoiser.schedule, 1)
    assert generate(denoiser, plan, 12).labels.tolist() == [*range(10), 0, 1]
    assert generate(denoiser, plan, 5, classes=[7, 2]).labels.tolist() == [7, 2, 7, 2, 7]
    for wrong in ([10], [-1], []):
        with pytest.raises(ValueError, match="classes"):
            generate(denoiser, plan, 2, classes=wrong)
    with pytest.raises(ValueError, match="count"):
        generate(denoiser, plan, 0)


def test_calls_are_counted_per_image(denoiser):
    plan = solvers.unipc(denoiser.schedule, 8)
    cache = caching.taylorseer(denoiser.model, interval=3)
    samples = generate(denoiser, plan, 4, cache=cache, batch=2)
    assert (samples.model_calls, samples.full_calls) == (8, 4)
    assert samples.seconds > 0
    assert samples.images.shape == (4, 1, 28, 28)
    assert float(samples.images.abs().max()) <= 1


@pytest.mark.parametrize(("steps", "share"), [(8, 0.75), (20, 0.5)])
def test_unipc_is_nearer_to_the_exact_solution_than_euler(denoiser, steps, share):
    truth = generate(denoiser, solvers.unipc(denoiser.schedule, 60), 16).images
    unipc, euler = (
        rmse(generate(denoiser, solver(denoiser.schedule, steps), 16).images, truth)
        for solver in (solvers.unipc, solvers.euler)
    )
    assert unipc <= share * euler


def test_a_cache_on_another_model_is_an_error(denoiser):
    cache = caching.taylorseer(zoo.load_model("fashion-dit"))
    with pytest.raises(ValueError, match="not on this denoiser's model"):
        generate(denoiser, solvers.ddim(denoiser.schedule, 2), 1, cache=cache)


def test_quality_of_the_model_beats_that_of_noise(denoiser):
    good = fashion_quality(generate(denoiser, solvers.unipc(denoiser.schedule, 8), 100))
    bad = fashion_quality(generate(denoiser, solvers.ddim(denoiser.schedule, 1), 100))
    assert good.fid < 0.5 * bad.fid
    assert good.accuracy > 0.6
    assert fashion_reference()[1].moments.count == 60000


def test_the_noise_on_the_way_depends_on_seed_and_index_alone(denoiser):
    plan = solvers.ddpm(denoiser.schedule, 4)
    whole = generate(denoiser, plan, 5, seed=5, classes=[1])
    split = generate(denoiser, plan, 5, seed=5, classes=[1], batch=2)
    torch.testing.assert_close(whole.images, split.images, rtol=0, atol=1e-4)
    seeds = noise_seeds(5, range(1000))
    assert len(set(seeds)) == 1000
    assert seeds[3:7] == noise_seeds(5, range(3, 7))
    assert not set(seeds) & set(noise_seeds(6, range(1000)))
