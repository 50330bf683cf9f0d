import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from pyaccel import Denoiser, schedules, solvers, time_grids
from pyaccel.solvers import ModelStatistics

from ..mixture import exact_denoiser, times
from .agreement import agrees, points
from .convergence import slope, truth

S = schedules.vp_linear()


def statistics(shape=(3,), knots=400):
    """Smooth statistics, another one for each element, over all of the schedule's range."""
    lam = torch.linspace(float(S.lam(1.0)), float(S.lam(0.02)), knots, dtype=torch.float64)
    phase = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    column = lam.reshape(-1, *[1] * len(shape))
    return ModelStatistics(
        lam,
        0.5 - 0.4 * torch.tanh(column + phase / 4),
        0.3 * torch.sin(column + phase),
        0.2 * torch.cos(column - phase),
    )


def loop(grid, model, noise, stats, order):
    """Zheng et al. 2023, the multistep predictor as its appendix has it; all integrals on a fine grid of log-SNR."""
    lam = np.linspace(float(stats.lam[0]), float(stats.lam[-1]), 40_001)
    l, s, b = (  # noqa: E741
        np.stack([np.interp(lam, stats.lam.numpy(), v[:, i].numpy()) for i in range(v.shape[1])], 1)
        for v in (stats.l, stats.s, stats.b)
    )

    def cumulated(y):
        steps = np.diff(lam)[:, None] * 0.5 * (y[1:] + y[:-1])
        return np.concatenate([np.zeros((1, y.shape[1])), np.cumsum(steps, 0)])

    L, S_ = cumulated(l), cumulated(s)
    B = cumulated(np.exp(-S_) * b)
    x, history = S.sigma(grid[0]) * noise, []
    for s_time, t_time in itertools.pairwise(grid):
        lams, lamt = S.lam(s_time), S.lam(t_time)
        i, j = (round((v - lam[0]) / (lam[1] - lam[0])) for v in (lams, lamt))
        eps = (x - S.alpha(s_time) * model(x, torch.tensor([s_time]))) / S.sigma(s_time)
        history.insert(0, (i, lams, (S.sigma(s_time) * eps - torch.tensor(l[i]) * x) / S.alpha(s_time)))
        used = history[: min(order, len(history))]

        def g(k, f, i=i):
            return np.exp(S_[i] - S_[k]) * f.numpy() - np.exp(S_[i]) * (B[k] - B[i])

        values = [g(k, f) for k, _, f in used]
        piece = slice(i, j + 1)
        outer = np.exp(L[piece] + S_[piece] - L[i] - S_[i])
        tau = (lam[piece] - lams)[:, None]

        def integral(y, outer=outer, piece=piece):
            z = outer * y
            return (np.diff(lam[piece])[:, None] * 0.5 * (z[1:] + z[:-1])).sum(0)

        total = values[0] * integral(np.ones_like(outer)) + np.exp(S_[i]) * integral(B[piece] - B[i])
        if len(used) > 1:
            nodes = np.array([v - lams for _, v, _ in used[1:]])
            powers = np.stack([nodes**k for k in range(1, len(used))], 1)
            derivatives = np.linalg.solve(powers, np.stack([v - values[0] for v in values[1:]]).reshape(len(nodes), -1))
            for k, d in enumerate(derivatives, 1):
                total = total + d.reshape(values[0].shape) * integral(tau**k)
        scale = S.alpha(t_time) * np.exp(L[i] - L[j])
        x = torch.tensor(scale) * (x / S.alpha(s_time) - torch.tensor(total))
    return x


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_is_the_papers_predictor(order, steps):
    stats = statistics()
    knots = torch.linspace(0, len(stats.lam) - 1, steps + 1).round().long()  # points of the grid on the statistics' own
    grid = [float(S.time_of_lam(v)) for v in stats.lam[knots]]
    noise = torch.randn(4, 3, dtype=torch.float64)
    options = {"order": order, "corrector": False, "lower_order_final": False, "prediction": "sample"}
    plan = solvers.dpm_v3(S, times=grid, statistics=stats, **options)
    expected = loop(grid, exact_denoiser(S), noise, stats, order)
    # Their quadrature has other knots.
    torch.testing.assert_close(plan.sample(exact_denoiser(S), noise), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_degenerate_it_is_the_exact_exponential_method_over_x0(order):
    noise = points()
    options = {"times": times(9), "prediction": "sample"}
    plan = solvers.dpm_v3(S, order=order, corrector=False, **options)
    expected = {
        1: solvers.ddim(S, **options),
        2: solvers.dpmpp(S, order=2, correction="heun", **options),
        3: solvers.unipc(S, order=3, corrector=False, **options),
    }[order]
    if order == 3:  # UniP of order 2 halves where one equation is left; with all of order 3 it is exact
        plan = solvers.dpm_v3(S, order=3, corrector=False, lower_order_final=False, **options)
        expected = solvers.dpmpp(S, order=3, variant="exact", lower_order_final=False, **options)
        return agrees(plan.sample(exact_denoiser(S), noise), expected.sample(exact_denoiser(S), noise), 2e-3)
    agrees(plan.sample(exact_denoiser(S), noise), expected.sample(exact_denoiser(S), noise), 1e-5)


@pytest.mark.parametrize(("order", "corrector"), [(1, False), (2, False), (3, False), (2, True), (3, True)])
def test_order_of_convergence(order, corrector):
    assert order - 0.3 <= slope(solvers.dpm_v3, S, order=order, corrector=corrector) <= order + 1.2


def test_with_the_statistics_of_the_model_it_is_nearer():
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(4096, 1, generator=generator) < 0.3
    first, second = torch.randn(2, 4096, 1, generator=generator, dtype=torch.float64)
    data = torch.where(left, -1 + 0.3 * first, 0.6 + 0.2 * second)
    denoiser = Denoiser(exact_denoiser(S), S, "sample")
    stats = solvers.model_statistics(denoiser, data, knots=100, batch=4096)
    noise = torch.linspace(-2.5, 2.5, 201, dtype=torch.float64)[:, None]
    exact, total = truth(S, noise), [0.0, 0.0]
    for steps in (5, 6, 8, 10):
        grid = time_grids.make(S, steps, "log_snr", 1.0, 0.02)
        for i, given in enumerate((stats, None)):
            plan = solvers.dpm_v3(S, times=grid, statistics=given)
            total[i] += float((plan.sample(denoiser, noise) - exact).abs().mean())
    print(total)
    assert total[0] < 0.8 * total[1]


def test_tensors_go_with_the_plan(tmp_path):
    plan = solvers.dpm_v3(S, times=times(5), statistics=statistics())
    assert plan.tensors
    assert "[" in str(plan)
    plan.save(tmp_path / "v3.json")
    again = solvers.Plan.load(tmp_path / "v3.json")
    noise = torch.randn(2, 3)
    assert again == plan
    model = exact_denoiser(S, "epsilon")
    assert torch.equal(again.sample(model, noise), plan.sample(model, noise))


@pytest.mark.parametrize("schedule", [schedules.flow(), schedules.vp_cosine()], ids=lambda s: s.name)
def test_infinite_ends(schedule):
    for steps in (1, 2, 6):
        plan = solvers.dpm_v3(schedule, steps, prediction="sample")
        assert torch.isfinite(plan.sample(lambda x, t: torch.tanh(x), torch.randn(3, 2))).all()


def test_bad_input():
    with pytest.raises(TypeError, match="statistics"):
        solvers.dpm_v3(S, 4, statistics="file")
    with pytest.raises(ValueError, match="order"):
        solvers.dpm_v3(S, 4, order=4)
    measured = dataclasses.replace(statistics(), schedule="edm")
    with pytest.raises(ValueError, match="measured with edm, not vp_linear"):
        solvers.dpm_v3(S, 4, statistics=measured)
    calls = []
    with pytest.raises(ValueError, match="coefficient for each element"):
        solvers.dpm_v3(S, 4, statistics=statistics()).sample(lambda x, t: calls.append(x) or x, torch.randn(2, 7))
    assert not calls
