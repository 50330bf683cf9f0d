"""Fused and original trajectories: as near as the original is to its own run in float64, in every dtype."""

import pytest
import torch

from pyaccel.integrations.diffusers import fuse

from .schedulers import CLASSES, diffusers, quiet, trajectory, variants

SHAPE, STEPS = (4, 3, 8, 9), 5
GENERATOR = torch.Generator().manual_seed(5)
# Noise and sample are numbers that every dtype has.
NOISES = list(torch.randn((200, *SHAPE), generator=GENERATOR).bfloat16().half().double())
START = torch.randn(SHAPE, generator=GENERATOR).bfloat16().half().double()


def outcome(scheduler, dtype, step_options):
    """The trajectory, in float64 numbers, or the error."""
    try:
        return trajectory(scheduler, START.to(dtype), STEPS, step_options, NOISES).double()
    except Exception as error:
        return error


def distance(a, b):
    """Root mean square over the elements, in units of what the samples have; the worst of all steps.

    Over many elements: single ones differ by the luck of rounding.
    """
    return float(((a - b).square().mean(dim=(1, 2, 3, 4)) / b.square().mean(dim=(1, 2, 3, 4))).sqrt().max())


@pytest.mark.parametrize("name", CLASSES)
def test_trajectories(name):
    report, unfused = [], {}
    for number, (options, step_options) in enumerate(variants(name)):
        try:
            with quiet():
                scheduler = getattr(diffusers, name)(**options)
        except (ValueError, NotImplementedError, ImportError):
            continue  # the class refuses this combination
        exact = outcome(scheduler, torch.float64, step_options)
        for dtype in (torch.float32, (torch.float16, torch.bfloat16)[number % 2]):
            original, same = outcome(scheduler, dtype, step_options), fuse(scheduler)
            fused = outcome(same, dtype, step_options)
            if isinstance(original, Exception) or isinstance(fused, Exception):
                assert (type(original), str(original)) == (type(fused), str(fused)), (options, dtype)
                continue
            if not (original.isfinite().all() and exact.isfinite().all()):
                continue  # known to go wrong there
            own, ours, apart = distance(original, exact), distance(fused, exact), distance(fused, original)
            report.append((own, ours, apart, dtype, options, step_options))
            for reason, count in same._pyaccel.original_steps.items():
                unfused[reason] = unfused.get(reason, 0) + count
    worst = max(report, key=lambda r: r[2] / max(2 * r[0], 1e-6))
    print(f"\n{name}: {len(report)} runs; worst: original to float64 {worst[0]:.1e}, fused to float64 {worst[1]:.1e}, "
          f"fused to original {worst[2]:.1e} ({worst[3]}, {worst[4]} {worst[5]})")  # fmt: skip
    assert not unfused
    assert worst[2] <= max(2 * worst[0], 1e-6)
