import itertools

import numpy as np
import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import at, exact_denoiser, times
from .agreement import Path, agrees

S = schedules.vp_linear()
MODEL = exact_denoiser(S)
EVERY = [
    (solvers.ddim, {}),
    (solvers.dpmpp, {}),
    (solvers.unipc, {}),
    (solvers.heun, {}),
    (solvers.ddpm, {}),
    (solvers.dpmpp_sde, {"method": "singlestep"}),
]
IDS = [f.__name__ for f, _ in EVERY]


def run(plan, noise, **given):
    sampler = Path(*noise.shape).draw if plan.draws else None
    return plan.sample(MODEL, noise, noise_sampler=sampler, **given)


@pytest.fixture
def noise():
    return torch.randn(2, 3, 4, dtype=torch.float64)


@pytest.fixture
def image():
    return torch.randn(2, 3, 4, dtype=torch.float64) * 0.5


@pytest.mark.parametrize(("solver", "options"), EVERY, ids=IDS)
def test_the_kept_region_is_the_image_at_the_end(solver, options, noise, image):
    mask = torch.zeros(1, 1, 4)
    mask[..., :2] = 1
    x = run(solver(S, times=times(5, end=0.0), prediction="sample", **options), noise, image=image, mask=mask)
    assert torch.equal(x[..., 2:], image[..., 2:])
    assert not torch.isclose(x[..., :2], image[..., :2]).any()


@pytest.mark.parametrize(("solver", "options"), EVERY, ids=IDS)
def test_a_mask_of_ones_keeps_nothing(solver, options, noise, image):
    plan = solver(S, times=times(5), prediction="sample", **options)
    agrees(run(plan, noise, image=image, mask=torch.ones(4)), run(plan, noise, image=image))


def test_it_is_the_replacement_in_each_step(noise, image):
    """Song et al. 2021, appendix I.2, with the same noise throughout."""
    grid, mask = times(4, end=0.0), torch.rand(2, 1, 4, dtype=torch.float64).round()
    mask[0, 0, 0] = 0.3  # a soft edge mixes

    def known(x, t):
        return mask * x + (1 - mask) * (S.alpha(t) * image + S.sigma(t) * noise)

    x = known(S.alpha(1.0) * image + S.sigma(1.0) * noise, 1.0)
    for s, t in itertools.pairwise(grid):
        m = MODEL(x, at(s))
        x = known(S.alpha(t) * m + S.sigma(t) * (x - S.alpha(s) * m) / S.sigma(s), t)
    plan = solvers.ddim(S, times=grid, prediction="sample")
    agrees(plan.sample(MODEL, noise, image=image, mask=mask), x)


def test_the_network_sees_the_kept_region_at_its_noise_level(noise, image):
    mask, seen = torch.tensor([1.0, 1.0, 0.0, 0.0]), []

    def model(x, t):
        seen.append((float(t[0]), x.clone()))
        return MODEL(x, t)

    solvers.unipc(S, times=times(5), prediction="sample").sample(model, noise, image=image, mask=mask)
    for t, x in seen:
        agrees(x[..., 2:], (S.alpha(t) * image + S.sigma(t) * noise)[..., 2:])


@pytest.mark.parametrize(("solver", "options"), EVERY, ids=IDS)
@pytest.mark.parametrize("schedule", [S, schedules.edm(), schedules.flow()], ids=lambda s: s.name)
def test_image_to_image_starts_from_the_noised_image(schedule, solver, options, noise, image):
    model, grid = exact_denoiser(schedule), times(5, start=0.6, end=0.1)
    if schedule.name == "edm":
        exact = exact_denoiser(schedule)
        model = lambda x, sigma: exact(x, sigma / 80)  # noqa: E731 - it is told sigma
    seen = []

    def watched(x, t):
        seen.append(x.clone())
        return model(x, t)

    plan = solver(schedule, times=grid, prediction="sample", **options)
    draw = Path(2, 3, 4).draw
    got = plan.sample(watched, noise, noise_sampler=draw if plan.draws else None, image=image)
    noised = schedule.add_noise(image, noise, 0.6)
    agrees(seen[0], noised)
    by_hand = noised / schedule.sigma(0.6)  # which the plan scales back
    agrees(got, plan.sample(model, by_hand, noise_sampler=draw if plan.draws else None))


def test_start_is_an_option_of_every_solver(noise, image):
    plan = solvers.dpmpp(S, 6, start=0.6, prediction="sample")
    assert plan.times[0] == 0.6
    assert plan.ends[0] == (S.alpha(0.6), S.sigma(0.6))
    agrees(plan.sample(MODEL, noise, image=image), plan.sample(MODEL, S.add_noise(image, noise, 0.6) / S.sigma(0.6)))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"mask": torch.ones(4)}, "mask= needs image="),
        ({"image": torch.zeros(2, 3, 5)}, r"image has shape \(2, 3, 5\)"),
        ({"image": np.zeros((2, 3, 4))}, "image must be a tensor"),
        ({"image": torch.zeros(2, 3, 4, dtype=torch.int64)}, "image has dtype torch.int64"),
        ({"image": torch.zeros(2, 3, 4), "mask": np.ones(4)}, "mask must be a real tensor, got ndarray"),
        ({"image": torch.zeros(2, 3, 4), "mask": 2 * torch.ones(4)}, "mask must lie in"),
        ({"image": torch.zeros(2, 3, 4), "mask": torch.ones(5)}, "does not broadcast"),
    ],
    ids=str,
)
def test_what_does_not_fit(noise, given, what):
    with pytest.raises((ValueError, TypeError), match=what):
        solvers.ddim(S, 3, prediction="sample").sample(MODEL, noise, **given)


def test_an_image_is_not_rounded_to_the_noises_type():
    """The state is float32, so what is added to it is."""
    noise, image = torch.randn(2, 3, 4).bfloat16(), torch.randn(2, 3, 4)
    plan = solvers.ddim(S, 2, start=0.3, prediction="sample")
    wide = plan.sample(lambda x, t: x.bfloat16().float(), noise.float(), image=image)
    got = plan.sample(lambda x, t: x, noise, image=image)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, wide.bfloat16())


def test_inversion_takes_no_image(noise, image):
    plan = solvers.ddim(S, times=times(3)[::-1], prediction="sample")
    with pytest.raises(ValueError, match="rising plan"):
        plan.sample(MODEL, noise, image=image)
