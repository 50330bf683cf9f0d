import itertools
import math

import numpy as np
import pytest
import torch

from pyaccel import schedules

KINDS = {
    "linear": (schedules.linear_betas(), {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
    "scaled_linear": (
        schedules.scaled_linear_betas(),
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
    "cosine": (schedules.cosine_betas(), {"beta_schedule": "squaredcos_cap_v2"}),
}


def test_linear():
    np.testing.assert_allclose(schedules.linear_betas(5, 0.1, 0.5), [0.1, 0.2, 0.3, 0.4, 0.5])


def test_scaled_linear():
    np.testing.assert_allclose(schedules.scaled_linear_betas(3, 0.01, 0.09), [0.01, 0.04, 0.09])


def test_cosine_gives_the_cosine_until_a_beta_is_the_most():
    betas = schedules.cosine_betas(50)
    alphas = np.sqrt(np.cumprod(1 - betas))
    np.testing.assert_allclose(alphas[:-1], schedules.vp_cosine().alpha(np.arange(1, 50) / 50), rtol=1e-9)
    assert betas[-1] == 0.999
    assert schedules.cosine_betas(50, most=0.5).max() == 0.5


def algorithm_1(betas: list[float]) -> list[float]:
    """Lin et al. 2023, Algorithm 1, line by line, in floats."""
    alphas_bar_sqrt, product = [], 1.0
    for beta in betas:
        product *= 1 - beta
        alphas_bar_sqrt.append(math.sqrt(product))
    first, last = alphas_bar_sqrt[0], alphas_bar_sqrt[-1]
    alphas_bar_sqrt = [a - last for a in alphas_bar_sqrt]
    alphas_bar_sqrt = [a * first / (first - last) for a in alphas_bar_sqrt]
    alphas_bar = [a**2 for a in alphas_bar_sqrt]
    alphas = [alphas_bar[0]] + [b / a for a, b in itertools.pairwise(alphas_bar)]
    return [1 - a for a in alphas]


@pytest.mark.parametrize("kind", KINDS)
def test_rescaling_is_algorithm_1(kind):
    betas = KINDS[kind][0]
    rescaled = schedules.rescale_zero_terminal_snr(betas)
    np.testing.assert_allclose(rescaled, algorithm_1(betas.tolist()), rtol=1e-9, atol=1e-14)
    assert rescaled[-1] == 1
    assert rescaled[0] == pytest.approx(betas[0], rel=1e-12)
    assert schedules.vp_discrete(rescaled).alpha(1.0) == 0
    np.testing.assert_array_equal(schedules.rescale_zero_terminal_snr(torch.tensor(betas)), rescaled)


@pytest.mark.parametrize("kind", KINDS)
def test_every_alpha_of_diffusers(kind):
    diffusers = pytest.importorskip("diffusers")
    betas, config = KINDS[kind]
    theirs = diffusers.DDIMScheduler(num_train_timesteps=1000, **config)
    ours = schedules.vp_discrete(betas).alpha(np.arange(1, 1001) / 1000) ** 2
    np.testing.assert_allclose(ours, theirs.alphas_cumprod.double().numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rescaled_betas_are_those_of_diffusers(kind):
    ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    betas, _ = KINDS[kind]
    theirs = ddim.rescale_zero_terminal_snr(torch.tensor(betas))
    np.testing.assert_allclose(schedules.rescale_zero_terminal_snr(betas), theirs.numpy(), rtol=1e-9, atol=1e-14)
    # what diffusers computes in float32 is taken as well
    single = ddim.rescale_zero_terminal_snr(torch.tensor(betas, dtype=torch.float32))
    assert schedules.vp_discrete(single).alpha(1.0) == 0


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: schedules.linear_betas(1), "linear_betas: n must be a whole number of at least 2, got 1"),
        (lambda: schedules.linear_betas(10, -1.0), "linear_betas: betas must lie"),
        (lambda: schedules.scaled_linear_betas(10.0), "n must be a whole number"),
        (lambda: schedules.cosine_betas(most=1.0), "most in"),
        (lambda: schedules.rescale_zero_terminal_snr([0.1, 2.0]), "rescale_zero_terminal_snr: betas must lie"),
    ],
)
def test_bad_parameters(make, what):
    with pytest.raises(ValueError, match=what):
        make()
