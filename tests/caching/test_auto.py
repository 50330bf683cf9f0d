import torch

from pyaccel import caching, solvers, zoo


def test_it_is_nearer_to_the_uncached_run_than_taylor_and_reuse():
    for name, solver in (("fashion-dit", "euler"), ("fashion-unet", "ddim")):
        denoiser = zoo.load(name)
        noise, label = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(8)
        plan = solvers.from_name(solver)(denoiser.schedule, 24)
        uncached = plan.sample(denoiser, noise, label=label)

        def error(cache, plan=plan, denoiser=denoiser, noise=noise, label=label, uncached=uncached):
            with cache:
                return float((plan.sample(denoiser, noise, label=label) - uncached).square().mean().sqrt())

        model = denoiser.model
        best = error(caching.auto(model, interval=3))
        assert best < error(caching.taylorseer(model, interval=3))
        assert best < error(caching.fora(model, interval=3))
        assert caching.auto(model).where[0].kind == ("blocks" if name == "fashion-dit" else "resnet")
