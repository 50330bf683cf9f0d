"""The Fréchet distance against its closed form and against a float64 formula of its own."""

import numpy as np
import pytest
import torch

from pyaccel.evaluation import frechet_distance, moments


def draw(count, width, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64) * scale
    offset = torch.randn(width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix + offset


def symmetric_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(np.sqrt(np.clip(values, 0, None))) @ vectors.T


def closed_form(mean_a, cov_a, mean_b, cov_b):
    """|μa − μb|² + tr(A + B − 2 (√A B √A)^½): the root taken of a symmetric matrix, unlike in the code under test."""
    root = symmetric_root(cov_a)
    cross = symmetric_root(root @ cov_b @ root)
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * cross))


def test_equals_the_formula_on_correlated_features():
    a, b = draw(400, 12, seed=1), draw(700, 12, seed=2, scale=0.5)
    expected = closed_form(a.mean(0).numpy(), np.cov(a.numpy().T), b.mean(0).numpy(), np.cov(b.numpy().T))
    assert frechet_distance(a, moments(b)) == pytest.approx(expected, rel=1e-9)


def test_equals_the_distance_of_two_gaussians_when_their_moments_are_exact():
    # Whitened draws have mean 0 and covariance I exactly, so the moments below are those of N(m, diag s²).
    raw = torch.randn(500, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    raw -= raw.mean(0)
    white = raw @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(raw.T))).T
    scale, mean = torch.tensor([0.5, 1, 1.5, 2, 2.5, 3]).double(), torch.arange(6).double()
    expected = float((mean**2).sum() + ((scale - 1) ** 2).sum())
    assert frechet_distance(white * scale + mean, moments(white)) == pytest.approx(expected, rel=1e-9)


def test_is_zero_for_equal_clouds_even_with_dead_features():
    features = draw(300, 10, seed=4).clamp(min=0)
    features[:, 3] = 0  # a feature that never fires: a singular covariance
    distance = frechet_distance(features, moments(features))
    assert 0 <= distance < 1e-6


def test_serves_float32_features_in_float64():
    a, b = draw(300, 8, seed=5).float() + 100, draw(300, 8, seed=6).float() + 100
    exact = closed_form(
        a.double().mean(0).numpy(),
        np.cov(a.double().numpy().T),
        b.double().mean(0).numpy(),
        np.cov(b.double().numpy().T),
    )
    assert frechet_distance(a, moments(b)) == pytest.approx(exact, rel=1e-7)


def test_does_not_change_the_reference():
    reference = moments(draw(50, 4, seed=7))
    before = reference.sum.clone(), reference.outer.clone()
    frechet_distance(draw(60, 4, seed=8), reference)
    assert torch.equal(reference.sum, before[0])
    assert torch.equal(reference.outer, before[1])


@pytest.mark.parametrize("features", [torch.zeros(1, 4), torch.zeros(4), torch.zeros(9, 5)])
def test_refuses_what_it_cannot_serve(features):
    with pytest.raises(ValueError, match=r"features"):
        frechet_distance(features, moments(draw(50, 4, seed=9)))
