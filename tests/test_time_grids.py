import math

import numpy as np
import pytest

from pyaccel import schedules, time_grids

SCHEDULES = [schedules.flow(), schedules.vp_linear(), schedules.vp_cosine(), schedules.edm(), schedules.ve()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
@pytest.mark.parametrize("grid", list(time_grids.GRIDS))
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.9, 0.01)])
def test_every_grid_falls_from_start_to_end(schedule, grid, steps, start, end):
    times = time_grids.make(schedule, steps, grid, start, end)
    assert len(times) == steps + 1
    assert times[0] == start
    assert times[-1] == end


def test_log_snr_grid_is_even_in_log_snr():
    schedule = schedules.vp_linear()
    lam = [schedule.lam(t) for t in time_grids.log_snr(schedule, 7, 1.0, 1e-3)]
    np.testing.assert_allclose(np.diff(lam), np.diff(lam)[0], rtol=1e-9)


def test_karras_grid_is_equation_5():
    schedule, n, rho = schedules.edm(80.0, 0.002), 10, 7
    i = np.arange(n)
    expected = (80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    sigmas = [schedule.sigma(t) for t in time_grids.karras(schedule, n)]
    np.testing.assert_allclose(sigmas[:-1], expected, rtol=1e-10)
    assert sigmas[-1] == 0


def test_uniform_and_quadratic():
    schedule = schedules.flow()
    np.testing.assert_allclose(time_grids.uniform(schedule, 4), [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(time_grids.quadratic(schedule, 4), [1, 0.5625, 0.25, 0.0625, 0])


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "8"])
def test_steps_must_be_a_positive_whole_number(steps):
    with pytest.raises(ValueError, match="steps"):
        time_grids.make(schedules.flow(), steps)


@pytest.mark.parametrize("times", [[1.0], [0.5, 0.5], [0.2, 0.8], [1.2, 0.0], [1.0, math.nan, 0.0]])
def test_times_must_fall(times):
    with pytest.raises(ValueError, match="times"):
        time_grids.check(times)


def test_unknown_grid_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'karras'"):
        time_grids.make(schedules.flow(), 4, "karas")
    assert time_grids.make(schedules.flow(), 2, lambda schedule, steps, start, end: [1.0, 0.4, 0.0])[1] == 0.4
