"""The fused step inside of torch.compile."""

import pytest
import torch

from pyaccel.integrations.diffusers import fuse

from .runs import X, close, made
from .schedulers import CLASSES, quiet


@pytest.mark.parametrize("name", CLASSES)
def test_compiled_without_breaks(name):
    """One graph for a step and one for a loop, no step compiled anew, and eager's numbers."""
    counters = torch._dynamo.utils.counters
    fused, eager = fuse(made(name)), fuse(made(name))
    expected = loop_plain(eager)
    torch._dynamo.reset()
    counters.clear()
    step = torch.compile(one_step, backend="eager", fullgraph=True)
    fused.set_timesteps(5)
    x = X
    torch.manual_seed(0)
    with torch.no_grad(), quiet():
        for t in fused.timesteps:
            x = step(fused, x, t)
    assert counters["stats"]["unique_graphs"] == 1
    close(x, expected)
    torch._dynamo.reset()
    fused.set_timesteps(5)

    def whole(x):
        for t in fused.timesteps:
            seen = fused.scale_model_input(x, t) if hasattr(fused, "scale_model_input") else x
            x = fused.step(torch.sin(2 * seen), t, x).prev_sample
        return x

    torch.manual_seed(0)
    with torch.no_grad(), quiet():
        x = torch.compile(whole, backend="eager", fullgraph=True)(X)
    close(x, expected)
    assert fused._pyaccel.original_steps.total() == 0


def one_step(scheduler, x, t):
    seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    return scheduler.step(torch.sin(2 * seen), t, x, return_dict=False)[0]


def loop_plain(scheduler):
    scheduler.set_timesteps(5)
    torch.manual_seed(0)
    x = X
    with torch.no_grad(), quiet():
        for t in scheduler.timesteps:
            x = one_step(scheduler, x, t)
    return x


def test_compiled_by_inductor():
    """What the scheduler remembers is not written over by a compiler that reuses its buffers."""
    for name in ("HeunDiscreteScheduler", "UniPCMultistepScheduler"):
        torch._dynamo.reset()
        fused = fuse(made(name))
        expected = loop_plain(fuse(made(name)))
        fused.set_timesteps(5)

        def whole(x, fused=fused):
            for t in fused.timesteps:
                x = one_step(fused, x, t) * 1.0
            return x

        with torch.no_grad(), quiet():
            x = torch.compile(whole, fullgraph=True)(X)
        close(x, expected)


def test_with_a_generator_the_step_stays_outside_of_the_graph_and_fused():
    fused, eager = fuse(made("DDIMScheduler")), fuse(made("DDIMScheduler"))

    def one(scheduler, x, t, generator):
        return scheduler.step(torch.sin(2 * x), t, x, eta=1.0, generator=generator, return_dict=False)[0] * 1.0

    results = []
    for scheduler, step in ((eager, one), (fused, torch.compile(one, backend="eager"))):
        scheduler.set_timesteps(5)
        x, generator = X, torch.Generator().manual_seed(0)
        with torch.no_grad(), quiet():
            for t in scheduler.timesteps:
                x = step(scheduler, x, t, generator)
        results.append(x)
    close(*results)
    assert (fused._pyaccel.fused_steps, fused._pyaccel.original_steps.total()) == (5, 0)
