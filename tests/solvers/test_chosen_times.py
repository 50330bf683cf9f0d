"""Times by a bound of the error and along the teacher's path."""

import itertools

import pytest
import torch

from pyaccel import Denoiser, schedules, solvers
from pyaccel.solvers import TrainablePlan
from pyaccel.solvers.chosen_times import _bound
from tests.mixture import exact_denoiser


def falling(times, steps):
    assert len(times) == steps + 1
    assert all(a > b for a, b in itertools.pairwise(times))
    return times


@pytest.mark.parametrize("schedule", [schedules.vp_linear(), schedules.flow()], ids=["vp", "flow"])
def test_dmn_lowers_its_bound(schedule):
    plan = solvers.unipc(schedule, 5, end=1e-3, order=2)
    times = falling(solvers.dmn_times(plan, iterations=60), 5)
    assert (times[0], times[-1]) == pytest.approx((plan.times[0], plan.times[-1]))
    trainable = TrainablePlan(plan)
    before, slope = _bound(trainable, list(plan.times[1:-1]), 1.0)
    assert _bound(trainable, times[1:-1], 1.0)[0] < before
    for i in range(4):  # its derivatives, by differences
        up, down = list(plan.times[1:-1]), list(plan.times[1:-1])
        up[i], down[i] = up[i] + 1e-6, down[i] - 1e-6
        difference = (_bound(trainable, up, 1.0)[0] - _bound(trainable, down, 1.0)[0]) / 2e-6
        assert slope[i] == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_dmn_does_not_depend_on_how_a_solver_is_written():
    """DDIM, DPM-Solver-1 and iPNDM-1 are the same solver, over predictions of x0 and of the noise."""
    flow = schedules.flow()
    plans = [solvers.ddim(flow, 4), solvers.dpm(flow, 4, order=1), solvers.ipndm(flow, 4, order=1)]
    bounds = [_bound(TrainablePlan(plan, form="solver"), list(plan.times[1:-1]), 1.0)[0] for plan in plans]
    assert bounds == pytest.approx([bounds[0]] * 3, rel=1e-3)
    assert solvers.dmn_times(solvers.ddim(flow, 1)) == list(solvers.ddim(flow, 1).times)


def test_gits_finds_the_cheapest_path_and_helps():
    schedule = schedules.vp_linear()
    denoiser = Denoiser(exact_denoiser(schedule, "epsilon"), schedule, "epsilon")
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    times = falling(solvers.gits_times(denoiser, schedule, 4, noise, fine=24), 4)
    assert set(times) <= set(solvers.ddim(schedule, 24).times)
    exact = solvers.unipc(schedule, 100, grid="log_snr").sample(denoiser, noise)
    chosen, uniform = solvers.ddim(schedule, times=times), solvers.ddim(schedule, 4)
    errors = [(p.sample(denoiser, noise) - exact).square().mean() for p in (chosen, uniform)]
    assert errors[0] < errors[1]
    assert solvers.gits_times(denoiser, schedule, 6, noise, fine=6) == list(solvers.ddim(schedule, 6).times)
    with pytest.raises(ValueError, match="cannot be chosen among 3"):
        solvers.gits_times(denoiser, schedule, 4, noise, fine=3)
