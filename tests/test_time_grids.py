import functools
import math

import mpmath
import numpy as np
import pytest

from pyaccel import schedules, time_grids

from .schedules.all import ALL, PURE_NOISE

SD = schedules.vp_discrete(schedules.scaled_linear_betas())
SD_CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SHORT = {"vp_discrete, cosine": 100, "vp_discrete, 4 rescaled": 4}
WHOLE_STEPS = ("trailing", "leading", "linspace")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("grid", list(time_grids.GRIDS))
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.9, 0.01)])
def test_every_grid_falls_from_start_to_end(name, grid, start, end):
    for steps in (1, 2, 3, 10, 50, 1000):
        check_ends(name, grid, steps, start, end)


def check_ends(name, grid, steps, start, end):
    room = math.floor(start * SHORT.get(name, 1000)) - math.floor(end * SHORT.get(name, 1000))
    if grid in WHOLE_STEPS and steps > room:
        with pytest.raises(ValueError, match=f"{grid}: {steps} steps do not fit in the {room} training steps"):
            time_grids.make(ALL[name], steps, grid, start, end)
        return
    times = time_grids.make(ALL[name], steps, grid, start, end)
    assert len(times) == steps + 1
    assert all(type(t) is float for t in times)
    assert times[-1] == end
    if grid not in WHOLE_STEPS:
        assert times[0] == start
    elif grid != "leading":
        assert start - 1 / SHORT.get(name, 1000) < times[0] <= start


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("grid", list(time_grids.GRIDS))
def test_final_minimum_ends_at_t_min(name, grid):
    times = time_grids.make(ALL[name], 2, grid, final="minimum")
    assert len(times) == 3
    assert times[-1] == ALL[name].t_min


def test_final_minimum_keeps_an_end_above():
    assert time_grids.make(schedules.edm(), 3, "karras", 1.0, 0.5, final="minimum")[-1] == 0.5


@pytest.mark.parametrize("grid", ["log_snr", "exponential"])
def test_log_snr_grid_is_even_in_log_snr(grid):
    schedule = schedules.vp_linear()
    lam = [schedule.lam(t) for t in time_grids.GRIDS[grid](schedule, 7, 1.0, 1e-3)]
    np.testing.assert_allclose(np.diff(lam), np.diff(lam)[0], rtol=1e-9)


@pytest.mark.parametrize("rho", [7, 3.0])
def test_karras_grid_is_equation_5(rho):
    schedule, n = schedules.edm(80.0, 0.002), 10
    i = np.arange(n)
    expected = (80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    times = time_grids.make(schedule, n, functools.partial(time_grids.karras, rho=rho))
    sigmas = [schedule.sigma(t) for t in times]
    np.testing.assert_allclose(sigmas[:-1], expected, rtol=1e-10)
    assert sigmas[-1] == 0


@pytest.mark.parametrize("name", PURE_NOISE)
def test_karras_grid_of_a_schedule_with_infinite_ends(name):
    """Points between t_max and t_min by equation 5; then the first is moved to 1 and one more step leads to 0."""
    schedule, n = ALL[name], 6
    high, low = schedule.ratio(schedule.t_max) ** (1 / 7), schedule.ratio(schedule.t_min) ** (1 / 7)
    expected = (high + np.arange(n) / (n - 1) * (low - high)) ** 7
    times = time_grids.make(schedule, n, "karras")
    np.testing.assert_allclose(schedule.ratio(np.array(times[1:-1])), expected[1:], rtol=1e-9)
    assert (times[0], times[-1]) == (1.0, 0.0)


def test_uniform_and_quadratic():
    schedule = schedules.flow()
    np.testing.assert_allclose(time_grids.uniform(schedule, 4), [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(time_grids.quadratic(schedule, 4), [1, 0.5625, 0.25, 0.0625, 0])


def test_beta_grid_has_the_quantiles_of_the_beta_distribution():
    n = 8
    times = time_grids.beta(schedules.flow(), n)
    for i, t in enumerate(times):
        assert float(mpmath.betainc(0.6, 0.6, 0, t, regularized=True)) == pytest.approx(1 - i / n, abs=1e-10)
    part = time_grids.beta(schedules.flow(), n, 0.8, 0.2)
    np.testing.assert_allclose(part, 0.2 + 0.6 * np.array(times), rtol=1e-12)
    flat = time_grids.make(schedules.flow(), n, functools.partial(time_grids.beta, a=1.0, b=1.0))
    np.testing.assert_allclose(flat, time_grids.uniform(schedules.flow(), n), rtol=1e-12)


def test_beta_grid_over_the_ratio():
    n, schedule = 8, schedules.edm(80.0, 0.002)
    ratios = schedule.ratio(np.array(time_grids.beta(schedule, n, over="ratio")[:-1]))
    for i, ratio in enumerate(ratios):
        share = (ratio - 0.002) / (80 - 0.002)
        assert float(mpmath.betainc(0.6, 0.6, 0, share, regularized=True)) == pytest.approx(1 - i / (n - 1), abs=1e-9)


def test_discrete_spacings_are_those_of_table_2():
    """Lin et al. 2023, table 2, whose training steps are 1 to 1000: ten of them."""

    def steps(grid):
        return np.round(1000 * np.array(time_grids.make(schedules.vp_linear(), 10, grid)[:-1])).tolist()

    assert steps("trailing") == [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]
    assert steps(functools.partial(time_grids.leading, steps_offset=0)) == [
        901,
        801,
        701,
        601,
        501,
        401,
        301,
        201,
        101,
        1,
    ]
    assert steps("linspace") == [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1]


@pytest.mark.parametrize("grid", WHOLE_STEPS)
@pytest.mark.parametrize("steps", [2, 3, 7, 10, 16, 25, 48, 50, 64, 300, 999, 1000])
def test_discrete_spacings_are_those_of_diffusers(grid, steps):
    diffusers = pytest.importorskip("diffusers")
    if (grid, steps) == ("leading", 1000):
        pytest.skip("diffusers asks for training step 1000, which there is not")
    theirs = diffusers.DDIMScheduler(timestep_spacing=grid, steps_offset=1, **SD_CONFIG)
    theirs.set_timesteps(steps)
    times = np.array(time_grids.make(SD, steps, grid)[:-1])
    np.testing.assert_allclose(SD.model_time(times), theirs.timesteps.numpy()[:steps], rtol=0, atol=1e-9)


def test_leading_offset_is_lowered_to_what_fits():
    assert time_grids.make(SD, 1000, "leading") == time_grids.make(SD, 1000, "trailing")
    assert time_grids.make(SD, 500, functools.partial(time_grids.leading, steps_offset=7))[0] == 1.0


def test_discrete_spacings_count_the_betas():
    schedule = schedules.vp_discrete(schedules.linear_betas(50))
    assert time_grids.make(schedule, 5, "trailing") == [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
    assert time_grids.make(schedule, 2, "trailing", 0.6, 0.2) == [0.6, 0.4, 0.2]


def their_sigmas(steps, **options):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler(**SD_CONFIG, **options)
    scheduler.set_timesteps(steps)
    return scheduler.sigmas.double().numpy()


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize(
    ("grid", "option"),
    [
        ("karras", "use_karras_sigmas"),
        ("exponential", "use_exponential_sigmas"),
        (functools.partial(time_grids.beta, over="ratio"), "use_beta_sigmas"),
    ],
)
def test_ratios_are_the_sigmas_of_diffusers(grid, option, steps):
    if option != "use_karras_sigmas":
        pytest.importorskip("scipy")  # which diffusers wants for these two
    ratios = SD.ratio(np.array(time_grids.make(SD, steps, grid)))
    np.testing.assert_allclose(ratios, their_sigmas(steps, **{option: True}), rtol=1e-5, atol=1e-5)


def test_align_your_steps_is_the_published_table():
    times = time_grids.make(SD, 10, "align_your_steps")
    np.testing.assert_allclose(SD.ratio(np.array(times[1:-1])), time_grids.ALIGN_YOUR_STEPS["sd15"][1:-1], rtol=1e-9)
    video = schedules.edm(700.0, 0.002)
    times = time_grids.make(video, 10, functools.partial(time_grids.align_your_steps, model="svd"))
    np.testing.assert_allclose(video.sigma(np.array(times[:-1])), time_grids.ALIGN_YOUR_STEPS["svd"][:-1], rtol=1e-9)


def test_align_your_steps_is_that_of_diffusers():
    theirs = pytest.importorskip("diffusers.schedulers").AysSchedules
    names = {"sd15": "StableDiffusion", "sdxl": "StableDiffusionXL", "svd": "StableDiffusionVideo"}
    for model, name in names.items():
        assert list(time_grids.ALIGN_YOUR_STEPS[model][:-1]) == theirs[f"{name}Sigmas"][:-1]
        if f"{name}Timesteps" in theirs:
            times = time_grids.make(SD, 10, functools.partial(time_grids.align_your_steps, model=model))
            np.testing.assert_allclose(SD.model_time(np.array(times[:-1])), theirs[f"{name}Timesteps"], atol=1.0)


def test_align_your_steps_of_other_numbers_of_steps():
    """Between the table's places, k/10, the logarithm is linear: twenty steps have geometric means."""
    table = np.array(time_grids.ALIGN_YOUR_STEPS["sd15"])
    ratios = SD.ratio(np.array(time_grids.make(SD, 20, "align_your_steps")))
    np.testing.assert_allclose(ratios[2:-1:2], table[1:-1], rtol=1e-9)
    np.testing.assert_allclose(ratios[1::2], np.sqrt(table[1:] * table[:-1]), rtol=1e-9)


def test_align_your_steps_from_a_time_inside_the_table():
    start = SD.time_of_ratio(3.861)  # the table's third: two of its ten steps are cut off
    ratios = SD.ratio(np.array(time_grids.make(SD, 8, "align_your_steps", start)))
    np.testing.assert_allclose(ratios[:-1], time_grids.ALIGN_YOUR_STEPS["sd15"][2:-1], rtol=1e-9)
    with pytest.raises(ValueError, match="they do not overlap"):
        time_grids.make(schedules.edm(), 8, "align_your_steps", 0.0002)


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "8"])
def test_steps_must_be_a_positive_whole_number(steps):
    with pytest.raises(ValueError, match="steps"):
        time_grids.make(schedules.flow(), steps)


@pytest.mark.parametrize(("start", "end"), [(0.2, 0.8), (0.5, 0.5), (1.2, 0.0), (1.0, -0.1), (math.nan, 0.0)])
def test_start_and_end_must_fall_within_0_and_1(start, end):
    with pytest.raises(ValueError, match=f"got start={start} and end={end}"):
        time_grids.make(schedules.flow(), 4, "karras", start, end)


@pytest.mark.parametrize(
    ("grid", "what"),
    [
        (functools.partial(time_grids.karras, rho=0), "karras: rho must be positive, got 0"),
        (functools.partial(time_grids.beta, a=-1.0), "a and b must be positive"),
        (functools.partial(time_grids.beta, over="sigma"), "beta: over must be 'time' or 'ratio', got 'sigma'"),
        (functools.partial(time_grids.leading, steps_offset=-1), "leading: steps_offset must be"),
        (functools.partial(time_grids.align_your_steps, model="sdx"), "did you mean 'sdxl'"),
        ("karas", "did you mean 'karras'"),
    ],
)
def test_bad_grids(grid, what):
    with pytest.raises(ValueError, match=what):
        time_grids.make(schedules.flow(), 4, grid)


def test_other_bad_arguments_of_make():
    with pytest.raises(ValueError, match="final must be 'zero' or 'minimum', got 'sigma_min'"):
        time_grids.make(schedules.flow(), 4, final="sigma_min")
    with pytest.raises(TypeError, match="grid must be a name"):
        time_grids.make(schedules.flow(), 4, [1.0, 0.0])
    with pytest.raises(ValueError, match=r"needs start above 0.001 \(t_min of vp_linear\), got start=0.0005"):
        time_grids.make(schedules.vp_linear(), 4, "karras", 0.0005)


def test_a_function_of_ones_own():
    assert time_grids.make(schedules.flow(), 2, lambda schedule, steps, start, end: [1.0, 0.4, 0.0])[1] == 0.4


@pytest.mark.parametrize("times", [[1.0], [0.5, 0.5], [0.2, 0.8], [1.2, 0.0], [1.0, math.nan, 0.0]])
def test_times_must_fall(times):
    with pytest.raises(ValueError, match="times"):
        time_grids.check(times)


def test_times_may_be_asked_to_rise():
    assert time_grids.check([0, 0.5, 1], rising=True) == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match=r"rise strictly from data to noise; got 0.5 followed by 0.2 at position 2"):
        time_grids.check([0.0, 0.5, 0.2], rising=True)
    with pytest.raises(ValueError, match=r"fall strictly from noise to data; got 0.5 followed by 0.5 at position 2"):
        time_grids.check([1.0, 0.5, 0.5])
    with pytest.raises(ValueError, match=r"got 1.2 at position 0"):
        time_grids.check([1.2, 0.0])
