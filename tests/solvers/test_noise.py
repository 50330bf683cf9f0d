import itertools
import math

import pytest
import torch

from pyaccel import ops, schedules, solvers
from pyaccel.solvers.noise import GivenNoise, seeds_of

from ..mixture import exact_denoiser, times
from .agreement import Path, agrees

S = schedules.vp_linear()
MODEL = exact_denoiser(S)
PLAN = solvers.ddpm(S, times=times(6), prediction="sample")
in_the_kernel = pytest.mark.skipif(not hasattr(ops, "Noise"), reason="no noise in the kernel yet")


def generators(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


@pytest.fixture
def noise():
    return torch.randn(4, 3, dtype=torch.float64)


def test_a_generator_gives_one_tensor_for_each_draw(noise):
    (a,), (b,) = generators(5), generators(5)
    drawn = [torch.randn(4, 3, generator=b, dtype=torch.float64) for _ in PLAN.draws]
    expected = PLAN.sample(MODEL, noise, noise_sampler=lambda *_: drawn.pop(0))
    assert torch.equal(PLAN.sample(MODEL, noise, generator=a), expected)


def test_a_list_of_generators_is_one_for_each_sample(noise):
    together = PLAN.sample(MODEL, noise, generator=generators(1, 2, 3, 4))
    for i, seed in enumerate((1, 2, 3, 4)):
        alone = PLAN.sample(MODEL, noise[i : i + 1], generator=generators(seed))
        agrees(together[i : i + 1], alone, 1e-12)


def test_the_noise_sampler_is_told_the_two_levels(noise):
    seen = []

    def sampler(a, b):
        seen.append((a, b))
        return torch.zeros(4, 3)

    PLAN.sample(MODEL, noise, noise_sampler=sampler)
    grid = times(6)
    expected = [(S.ratio(s), S.ratio(t)) for s, t in itertools.pairwise(grid[:-1])]
    for (a, b), (c, d) in zip(seen, expected, strict=True):
        assert math.isclose(a, c)
        assert math.isclose(b, d)


def test_a_draw_inside_a_step_is_used_again_in_the_next_stage(noise):
    """DPM++ SDE: the noise of the whole step is made of that of its two parts."""
    plan, path, calls = solvers.dpmpp_sde(S, times=times(3), prediction="sample", method="singlestep"), Path(4, 3), []

    def sampler(a, b):
        calls.append((a, b))
        return path.draw(a, b)

    plan.sample(MODEL, noise, noise_sampler=sampler)
    assert len(calls) == len(set(calls)) == len(plan.draws) == 2 * 3
    assert [stage.draws for stage in plan.stages] == [[0], [0, 1], [2], [2, 3], [4], [4, 5]]


def test_a_draw_is_kept_until_its_last_use():
    plan = solvers.dpmpp_sde(S, times=times(3), prediction="sample", method="singlestep")
    source = GivenNoise(plan, lambda draw: torch.full((1,), float(draw)))
    for stage in plan.stages:
        assert [float(x) for x in source.tensors(stage.draws)] == stage.draws
    assert source._kept == {}


def test_a_deterministic_plan_needs_none(noise):
    plan = solvers.ddim(S, times=times(3), prediction="sample")
    expected = plan.sample(MODEL, noise)
    assert torch.equal(plan.sample(MODEL, noise, seed=3), expected)
    assert torch.equal(plan.sample(MODEL, noise, generator=generators(1)[0]), expected)


@pytest.mark.parametrize(
    ("given", "error", "what"),
    [
        ({}, ValueError, "ddpm adds noise on its way: pass seed=0"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "got seed and generator"),
        ({"seed": 1, "noise_sampler": lambda a, b: None}, ValueError, "got seed and noise_sampler"),
        ({"generator": generators(1, 2)}, ValueError, "2 generators for 4 samples"),
        ({"generator": [1, 2, 3, 4]}, TypeError, "torch.Generator or a list of them"),
        ({"noise_sampler": lambda a, b: torch.zeros(4)}, ValueError, r"shape \(4,\) for draw 0, expected \(4, 3\)"),
        ({"seed": [1, 2, 3]}, ValueError, "3 seeds for 4 samples"),
        ({"seed": -1}, ValueError, "from 0 to"),
        ({"seed": [0, 1, 2, 2**63]}, ValueError, "from 0 to"),
        ({"seed": [0, 1, 2, 0.5]}, ValueError, "whole number"),
        ({"seed": 1.5}, TypeError, "whole number"),
        ({"seed": "1234"}, TypeError, "whole number"),
        ({"seed": True}, TypeError, "whole number"),
    ],
)
def test_what_cannot_be_noise(noise, given, error, what):
    with pytest.raises(error, match=what):
        PLAN.sample(MODEL, noise, **given)


def test_seeds():
    assert seeds_of(7, 3) == [7, 8, 9]
    assert seeds_of([3, 1, 2], 3) == [3, 1, 2]
    assert seeds_of((3, 1), 2) == [3, 1]
    assert seeds_of(torch.tensor([5, 6]), 2) == [5, 6]


@in_the_kernel
def test_the_kernel_draws_the_streams_of_its_seeds(noise):
    """Draw d is stream d + 1: stream 0 is left for the noise that a run starts from."""
    drawn = [ops.normal((4, 3), [7, 8, 9, 10], d + 1, dtype=torch.float64) for d in range(len(PLAN.draws))]
    expected = PLAN.sample(MODEL, noise, noise_sampler=lambda *_: drawn.pop(0))
    agrees(PLAN.sample(MODEL, noise, seed=7), expected, 1e-12)


@in_the_kernel
@pytest.mark.parametrize("solver", [solvers.ddpm, solvers.euler_ancestral, solvers.dpmpp_sde])
def test_a_sample_has_the_noise_of_its_own_seed(noise, solver):
    plan = solver(S, times=times(6), prediction="sample")
    together = plan.sample(MODEL, noise, seed=11)
    assert torch.equal(together, plan.sample(MODEL, noise, seed=[11, 12, 13, 14]))
    agrees(plan.sample(MODEL, noise[2:3], seed=13), together[2:3], 1e-12)
    agrees(plan.sample(MODEL, noise.flip(0), seed=[14, 13, 12, 11]), together.flip(0), 1e-12)
    assert not torch.allclose(plan.sample(MODEL, noise, seed=12), together)


@in_the_kernel
def test_in_stage_draws_are_the_same_where_they_are_used_again(noise):
    plan = solvers.dpmpp_sde(S, times=times(4), prediction="sample", method="singlestep")
    drawn = [ops.normal((4, 3), [0, 1, 2, 3], d + 1, dtype=torch.float64) for d in range(len(plan.draws))]
    expected = plan.sample(MODEL, noise, noise_sampler=lambda *_: drawn.pop(0))
    agrees(plan.sample(MODEL, noise, seed=0), expected, 1e-12)


@in_the_kernel
def test_noise_in_the_kernel_does_not_depend_on_strides():
    noise = torch.randn(2, 3, 4, 5)
    expected = PLAN.sample(MODEL, noise, seed=1)
    torch.testing.assert_close(PLAN.sample(MODEL, noise.to(memory_format=torch.channels_last), seed=1), expected)


@in_the_kernel
def test_gradients_run_past_noise_from_the_kernel(noise):
    plan = solvers.ddpm(S, times=times(3), prediction="sample")
    noise = noise[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: plan.sample(MODEL, z, seed=3), noise)
