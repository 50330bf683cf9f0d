"""Plans beside the samplers of k-diffusion, in the coordinates that they share: schedules.edm(), where alpha is 1."""

import functools
import math

import pytest
import torch

from pyaccel import schedules, solvers

from ..k_diffusion import sampling
from .agreement import Path, agrees, points

partial = functools.partial
S = schedules.edm()


K = sampling()
if K is None:
    pytest.skip("k-diffusion or scipy is not installed", allow_module_level=True)


def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Any smooth denoiser."""
    return torch.tanh(x / (1 + sigma.reshape(-1)[0])) + 0.1 * torch.sin(3 * x / (1 + sigma.reshape(-1)[0]))


def compare(sampler, make_plan, count: int, path: Path | None = None, smallest: float = 0.03, **options) -> None:
    """From sigma 80 to ``smallest`` by the grid of Karras et al. and then to 0; with 1 step, at once."""
    x = points()
    rho = torch.linspace(80 ** (1 / 7), smallest ** (1 / 7), count, dtype=torch.float64)
    sigmas = torch.cat([rho**7, torch.zeros(1, dtype=torch.float64)])
    more = {} if path is None else {"noise_sampler": path.draw}
    expected = sampler(denoise, sigmas[0] * x, sigmas, disable=True, **more, **options)
    plan = make_plan(S, times=[1.0, *(float(s) / 80 for s in sigmas[1:])], prediction="sample")
    agrees(plan.sample(denoise, x, **more), expected, 1e-9)


@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("euler", solvers.euler),
        ("heun", solvers.heun),
        ("lms", solvers.lms),
        # It lowers the order where sigma becomes 0, ours always at infinite log-SNR.
        ("dpmpp_2m", partial(solvers.dpmpp, order=2, lower_order_final=False)),
    ],
)
def test_deterministic(name, solver, count):
    compare(getattr(K, f"sample_{name}"), solver, count)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_lms_of_lower_order(order):
    compare(K.sample_lms, partial(solvers.lms, order=order), 9, order=order)


def test_dpmpp_2s_is_its_ancestral_sampler_without_noise():
    path = Path(20)
    make = partial(solvers.dpmpp, order=2, method="singlestep", lower_order_final=False)
    x = points()
    sigmas = torch.tensor([80.0, 20.0, 5.0, 1.0, 0.2, 0.0], dtype=torch.float64)
    expected = K.sample_dpmpp_2s_ancestral(denoise, 80 * x, sigmas, disable=True, eta=0.0, noise_sampler=path.draw)
    agrees(make(S, times=(sigmas / 80).tolist(), prediction="sample").sample(denoise, x), expected, 1e-9)


@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (0.5, 1.003), (0.0, 1.0)])
def test_euler_ancestral(eta, s_noise, count):
    make = partial(solvers.euler_ancestral, eta=eta, s_noise=s_noise)
    compare(K.sample_euler_ancestral, make, count, Path(20), eta=eta, s_noise=s_noise)


@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (0.5, 1.003)])
def test_dpmpp_sde(eta, s_noise, count):
    """Its two draws in a step overlap: the same Brownian path."""
    make = partial(solvers.dpmpp_sde, method="singlestep", eta=eta, s_noise=s_noise)
    compare(K.sample_dpmpp_sde, make, count, Path(20), eta=eta, s_noise=s_noise)


@pytest.mark.parametrize("count", [2, 5, 12])
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (0.5, 1.003), (0.0, 1.0)])
def test_dpmpp_2m_sde(eta, s_noise, correction, count):
    """Its "heun" divides psi_1 by −H instead of H: (1 − e^(−H))/(−H) + 1, the same number."""
    make = partial(solvers.dpmpp_sde, order=2, correction=correction, eta=eta, s_noise=s_noise, lower_order_final=False)
    options = {"eta": eta, "s_noise": s_noise, "solver_type": correction}
    compare(K.sample_dpmpp_2m_sde, make, count, Path(20), **options)


@pytest.mark.parametrize("count", [2, 3, 5, 12])
@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (0.5, 1.003)])
def test_dpmpp_3m_sde(eta, s_noise, count):
    """Its second step weighs the difference by psi_1, our correction="heun"."""
    make = partial(solvers.dpmpp_sde, order=3, correction="heun", eta=eta, s_noise=s_noise, lower_order_final=False)
    compare(K.sample_dpmpp_3m_sde, make, count, Path(20), eta=eta, s_noise=s_noise)


@pytest.fixture
def float64_by_default():
    """It spaces its times by torch.linspace in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("calls", [3, 4, 5, 9, 10])
@pytest.mark.usefixtures("float64_by_default")
def test_dpm_fast(calls):
    x, path = points(), Path(20)
    ends = torch.tensor([0.03, 80.0], dtype=torch.float64)
    expected = K.sample_dpm_fast(denoise, 80 * x, ends[0], ends[1], calls, disable=True, noise_sampler=path.draw)
    plan = solvers.dpm_fast(S, calls, end=0.03 / 80, prediction="sample")
    agrees(plan.sample(denoise, x), expected, 1e-9)
    assert math.isclose(plan.times[-1] * 80, 0.03)
