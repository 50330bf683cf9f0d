import pytest
import torch

from pyaccel import predictions, schedules

F64 = torch.float64


@pytest.mark.parametrize("prediction", predictions.PREDICTIONS)
@pytest.mark.parametrize("schedule", [schedules.flow(), schedules.vp_linear(), schedules.edm()], ids=lambda s: s.name)
def test_conversions_recover_data_and_noise(prediction, schedule):
    x0, noise = torch.randn(5, dtype=F64), torch.randn(5, dtype=F64)
    alpha, sigma = schedule.alpha(0.3), schedule.sigma(0.3)
    x, output = alpha * x0 + sigma * noise, predictions.target(prediction, x0, noise, alpha, sigma)
    p, q = predictions.to_sample(prediction, alpha, sigma)
    torch.testing.assert_close(p * x + q * output, x0, rtol=1e-10, atol=1e-10)
    p, q = predictions.convert(prediction, "epsilon", alpha, sigma)
    torch.testing.assert_close(p * x + q * output, noise, rtol=1e-10, atol=1e-10)


def test_epsilon_says_nothing_at_pure_noise():
    with pytest.raises(ValueError, match="alpha is 0"):
        predictions.to_sample("epsilon", 0.0, 1.0)
    with pytest.raises(ValueError, match="sigma is 0"):
        predictions.convert("sample", "epsilon", 1.0, 0.0)


def test_unknown_names():
    with pytest.raises(ValueError, match="velocity"):
        predictions.check("velocity")
    with pytest.raises(ValueError, match="score"):
        predictions.convert("flow", "score", 0.5, 0.5)
