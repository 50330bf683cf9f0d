"""A plan's weights by step are those of its formulas, and the picture shows them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from pyaccel import schedules, solvers
from pyaccel.evaluation.plan_figure import plan_figure, weights

VP = schedules.vp_linear()


def test_ddim_and_dpmpp_have_the_weights_of_their_papers():
    w = weights(solvers.ddim(VP, 4))
    plan = solvers.dpmpp(VP, 4, order=2)
    a = [*(VP.alpha(t) for t in plan.times)]
    s = [*(VP.sigma(t) for t in plan.times)]
    for i in range(4):  # x' = (alpha'/alpha)·x + (sigma' − sigma·alpha'/alpha)·eps, or the same over x0
        over_x0 = [s[i + 1] / s[i], a[i + 1] - a[i] * s[i + 1] / s[i]]
        assert w.sample[i] == pytest.approx(over_x0[0], abs=1e-9)
        assert w.predictions[i, 0] == pytest.approx(over_x0[1], abs=1e-9)
    w = weights(plan)
    lam = [math.log(x / y) if y else math.inf for x, y in zip(a, s, strict=True)]
    h, before = lam[2] - lam[1], lam[1] - lam[0]
    gain = -a[2] * math.expm1(-h)
    expected = [gain * (1 + h / (2 * before)), -gain * h / (2 * before)]
    assert w.predictions[1] == pytest.approx(expected, rel=1e-6)
    assert not w.noise.any()


@pytest.mark.parametrize(
    "plan",
    [
        solvers.unipc(VP, 6),
        solvers.heun(VP, 4),
        solvers.pndm(VP, 6),
        solvers.ipndm(schedules.flow(2.0), 6),
        solvers.dpm(schedules.edm(), 4),
    ],
    ids=lambda plan: plan.solver,
)
def test_stepping_by_the_weights_gives_the_plans_sample(plan):
    """The weights are another way to write the plan: a run by them, on what the model really said, ends the same."""
    noise = torch.randn(3, 5, dtype=torch.float64)
    seen, said = [], []

    def model(x, t):
        seen.append(x.clone())
        said.append(torch.tanh(x) * (1 + t[:, None]))
        return said[-1]

    x = plan.sample(model, noise)
    w = weights(plan)
    converted = []
    for call, given, out in zip([c for s in plan.stages for c in s.calls], seen, said, strict=True):
        data = {"sample": lambda a, s, x, o: o, "epsilon": lambda a, s, x, o: (x - s * o) / a,
                "flow": lambda a, s, x, o: x - s * o}[plan.prediction](call.alpha, call.sigma, given, out)  # fmt: skip
        converted.append(data if call.form == "sample" else (given - call.alpha * data) / call.sigma)
    for i in range(len(plan.stages)):
        after = w.sample[i] * seen[i]
        for j in range(min(i + 1, w.predictions.shape[1])):
            after = after + w.predictions[i, j] * converted[i - j]
        wanted = x if i + 1 == len(plan.stages) else seen[i + 1]
        torch.testing.assert_close(after, wanted, rtol=1e-6, atol=1e-6)


def test_noise_is_what_a_step_adds():
    plan = solvers.ddpm(VP, 5)
    w = weights(plan)
    for i, (t, u) in enumerate(zip(plan.times, plan.times[1:], strict=False)):
        step = VP.alpha(t) / VP.alpha(u)
        variance = (VP.sigma(t) ** 2 - (step * VP.sigma(u)) ** 2) * (VP.sigma(u) / VP.sigma(t)) ** 2
        assert w.noise[i] == pytest.approx(math.sqrt(variance), abs=1e-9)
    assert w.noise[-1] == 0
    renoised = weights(solvers.lcm(VP, 3))
    assert renoised.sample == pytest.approx([0, 0, 0], abs=1e-12)
    assert renoised.noise == pytest.approx([VP.sigma(t) for t in solvers.lcm(VP, 3).times[1:]], abs=1e-9)


@pytest.mark.parametrize(
    "plan",
    [
        solvers.unipc(schedules.flow(), 8),
        solvers.epd(VP, 3),
        solvers.euler_maruyama(schedules.edm(), 90),
        solvers.ddim(VP, 4, inverse=True),
        solvers.ddim(schedules.flow(), 1),
    ],
    ids=lambda plan: f"{plan.solver} {plan.steps}",
)
def test_draws_every_plan(plan, tmp_path):
    plan_figure(tmp_path / "x.png", plan)
    with Image.open(tmp_path / "x.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
