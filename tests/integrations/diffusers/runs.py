"""Runs of schedulers of diffusers that are compared step by step, and how near they have to be."""

import torch

from .schedulers import diffusers, network, quiet

SHAPE = (2, 3, 4, 5)
X = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
OPTIONS = {
    "DPMSolverMultistepScheduler": {"solver_order": 3},
    "UniPCMultistepScheduler": {"solver_order": 3, "use_karras_sigmas": True},
    "DEISMultistepScheduler": {"solver_order": 3},
}
DPM = diffusers.DPMSolverMultistepScheduler


def made(name):
    with quiet():
        return getattr(diffusers, name)(**OPTIONS.get(name, {}))


def stepped(scheduler, x, t, **options):
    seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(float(t)))
        return scheduler.step(network(seen, t), t, x, return_dict=False, **options)[0]


def loop(scheduler, x=X, steps=6, **options):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = stepped(scheduler, x, t, **options)
    return x


def close(a, b, tolerance=1e-5):
    """To a part of the largest value: constants of schedulers are float32, and early steps amplify."""
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1.0, float(b.abs().max())), equal_nan=True)


def same(a, b, path=""):
    """The same structure, types and dtypes; the same values in float64, where no rounding grows."""
    assert type(a) is type(b), (path, a, b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        if a.dtype == torch.float64 or a.dim() < 2:
            close(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (p, q) in enumerate(zip(a, b, strict=True)):
            same(p, q, f"{path}[{i}]")
    elif isinstance(a, (int, float, str, type(None))):
        assert a == b, path
