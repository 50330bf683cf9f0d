"""The fused step inside of torch.compile."""

import pytest
import torch

from pyaccel.integrations.diffusers import fuse

from .runs import X, close, made
from .schedulers import quiet


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "EulerDiscreteScheduler"])
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
    with torch.no_grad(), quiet():
        for t in fused.timesteps:
            x = step(fused, x, t)
    assert counters["stats"]["unique_graphs"] == 1
    close(x, expected)
    torch._dynamo.reset()
    fused.set_timesteps(5)

    def whole(x):
        for t in fused.timesteps:
            x = fused.step(torch.sin(2 * x), t, x).prev_sample
        return x

    with torch.no_grad(), quiet():
        x = torch.compile(whole, backend="eager", fullgraph=True)(X)
    close(x, expected)
    assert fused._pyaccel.original_steps.total() == 0


def one_step(scheduler, x, t):
    return scheduler.step(torch.sin(2 * x), t, x, return_dict=False)[0]


def loop_plain(scheduler):
    scheduler.set_timesteps(5)
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
