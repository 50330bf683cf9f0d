import itertools

import numpy as np
import pytest
import torch

from pyaccel import schedules, solvers
from pyaccel.solvers import Threshold
from pyaccel.solvers.thresholding import threshold_

from ..mixture import at, times
from .agreement import agrees

S = schedules.vp_linear()


def model(x, t):
    """Predictions of x0 that leave [-1, 1]."""
    return 1.6 * torch.sin(2 * x + t.view(-1, *[1] * (x.dim() - 1)).to(x.dtype))


def dynamic(x0, ratio, limit):
    """Saharia et al. 2022, section 2.3, sample by sample."""
    result = []
    for sample in x0.numpy():
        s = min(max(float(np.quantile(np.abs(sample), ratio)), 1.0), limit)
        result.append(np.clip(sample, -s, s) / s)
    return torch.from_numpy(np.stack(result))


def clip(x0, ratio, limit):
    return torch.from_numpy(np.clip(x0.numpy(), -limit, limit))


@pytest.mark.parametrize("limit", [0.5, 1.0, 1.3, 3.0])
@pytest.mark.parametrize(("ratio", "formula"), [(0.0, clip), (0.5, dynamic), (0.995, dynamic)])
def test_is_its_formula(ratio, formula, limit):
    x0 = torch.randn(4, 3, 5, dtype=torch.float64) * torch.tensor([0.1, 1.0, 2.0, 9.0]).view(4, 1, 1)
    expected = formula(x0, ratio, max(limit, 1.0) if ratio else limit)
    agrees(threshold_(x0.clone(), Threshold(limit, ratio)), expected, 1e-14)


@pytest.mark.parametrize("ratio", [0.0, 0.7])
@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v", "flow"])
def test_x0_is_clamped_in_every_step(prediction, ratio):
    noise, grid = torch.randn(3, 8, dtype=torch.float64), times(5)
    formula = dynamic if ratio else clip
    x = S.sigma(1.0) * noise
    for s, t in itertools.pairwise(grid):
        x0 = formula(model(x, at(s)), ratio, 1.2)
        x = S.alpha(t) * x0 + S.sigma(t) * (x - S.alpha(s) * x0) / S.sigma(s)

    def network(x, t):
        alpha, sigma = S.alpha(float(t[0])), S.sigma(float(t[0]))
        x0 = model(x, t)
        noise = (x - alpha * x0) / sigma
        return {"sample": x0, "epsilon": noise, "v": alpha * noise - sigma * x0, "flow": noise - x0}[prediction]

    plan = solvers.ddim(S, times=grid, prediction=prediction, threshold=Threshold(1.2, ratio))
    agrees(plan.sample(network, noise), x, 1e-9)


@pytest.mark.parametrize("solver", [solvers.heun, solvers.dpmpp, solvers.unipc, solvers.deis, solvers.epd])
def test_what_does_not_reach_the_limit_is_not_changed(solver):
    noise = torch.randn(3, 8, dtype=torch.float64)
    plain = solver(S, times=times(5), prediction="sample")
    far = solver(S, times=times(5), prediction="sample", threshold=2.0)
    agrees(far.sample(model, noise), plain.sample(model, noise), 1e-9)


@pytest.mark.parametrize("ratio", [0.0, 0.7])
def test_gradients_run_through_it(ratio):
    noise = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    plan = solvers.ddim(S, times=times(2), prediction="sample", threshold=Threshold(1.3, ratio))
    (gradient,) = torch.autograd.grad(plan.sample(model, noise).sum(), noise)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("threshold", [0.0, -1.0, Threshold(1.0, 1.0), Threshold(1.0, -0.1), float("nan")])
def test_bad_thresholds(threshold):
    with pytest.raises(ValueError, match="threshold"):
        solvers.ddim(S, 3, threshold=threshold)
