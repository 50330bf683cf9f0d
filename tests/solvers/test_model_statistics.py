import pytest
import torch

from pyaccel import Denoiser, schedules, solvers
from pyaccel.solvers import ModelStatistics

S = schedules.vp_linear()


def test_of_gaussian_data_they_are_known():
    """For N(m, d²) the network is linear: sigma·eps = k·x + c with k = sigma²/(alpha²d² + sigma²), so l = k.

    Then f = c/alpha has no variance, and x − l·x says all.
    """
    d = torch.tensor([0.5, 1.5], dtype=torch.float64)
    mean = torch.tensor([0.3, -1.0], dtype=torch.float64)

    def model(x, t):
        alpha, sigma = S.alpha(t)[:, None], S.sigma(t)[:, None]
        return sigma * (x - alpha * mean) / ((alpha * d) ** 2 + sigma**2)

    data = mean + d * torch.randn(256, 2, dtype=torch.float64)
    stats = solvers.model_statistics(Denoiser(model, S, "epsilon"), data, knots=30, batch=100)
    time = S.time_of_lam(stats.lam)
    alpha, sigma = S.alpha(time)[:, None], S.sigma(time)[:, None]
    torch.testing.assert_close(stats.l, sigma**2 / ((alpha * d) ** 2 + sigma**2), rtol=1e-6, atol=1e-6)


def test_conditioning_is_split_with_the_data():
    def model(x, t, c):
        assert len(c) == len(x)
        return torch.tanh(x) * c[:, None]

    c = torch.linspace(0, 1, 10)
    kept = [
        solvers.model_statistics(Denoiser(model, S, "epsilon"), torch.randn(10, 2), knots=4, batch=b, c=c).l.shape
        for b in (3, 10)
    ]
    assert kept == [(4, 2)] * 2


def test_files(tmp_path):
    lam = torch.linspace(-3, 3, 5, dtype=torch.float64)
    stats = ModelStatistics(lam, lam[:, None], 2 * lam[:, None], 3 * lam[:, None], "flow")
    stats.save(tmp_path / "s.safetensors")
    again = ModelStatistics.load(tmp_path / "s.safetensors")
    for name in ("lam", "l", "s", "b"):
        assert torch.equal(getattr(again, name), getattr(stats, name))
    assert again.schedule == "flow"


def test_bad_input(tmp_path):
    lam = torch.tensor([1.0, 0.0])
    with pytest.raises(ValueError, match="rising"):
        ModelStatistics(lam, lam, lam, lam)
    with pytest.raises(ValueError, match=r"l must be|s must be"):
        ModelStatistics(lam.flip(0), lam, lam[:1], lam)
    with pytest.raises(TypeError, match="Denoiser"):
        solvers.model_statistics(lambda x, t: x, torch.randn(4, 2))
    with pytest.raises(ValueError, match="at least 2"):
        solvers.model_statistics(Denoiser(lambda x, t: x, S, "epsilon"), torch.randn(1, 2))
