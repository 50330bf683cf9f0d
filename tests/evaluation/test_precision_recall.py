"""Improved precision and recall against a loop over all pairs in float64, and on clouds whose answer is known."""

import numpy as np
import pytest
import torch

from pyaccel.evaluation import manifold_radii, precision_recall
from pyaccel.evaluation.precision_recall import BLOCK


def cloud(count, width=5, seed=0, scale=1.0, shift=0.0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * scale + shift


def radii_by_sorting(points, k):
    return [sorted(np.linalg.norm(points - p, axis=1))[k] for p in points]  # place 0 is the point itself


def share_inside(points, centres, radii):
    return np.mean([any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radii, strict=True)) for p in points])


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_the_definition(k):
    samples, reference = cloud(60, seed=1, scale=0.8, shift=0.3), cloud(80, seed=2)
    s, r = samples.double().numpy(), reference.double().numpy()
    expected = share_inside(s, r, radii_by_sorting(r, k)), share_inside(r, s, radii_by_sorting(s, k))
    assert 0.05 < expected[0] < 0.999  # else the comparison says little
    assert 0.05 < expected[1] < 0.999
    assert precision_recall(samples, reference, k) == pytest.approx(expected, abs=1e-12)


def test_radii_and_shares_are_right_across_blocks():
    points = cloud(BLOCK + 40, width=3, seed=3)
    exact = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.allclose(manifold_radii(points, 3), exact.sort(dim=1).values[:, 3], rtol=1e-12)
    reference = cloud(200, width=3, seed=4, shift=0.5)
    whole = torch.cdist(points.double(), reference.double(), compute_mode="donot_use_mm_for_euclid_dist")
    precision = (whole <= manifold_radii(reference, 3)).any(1).double().mean().item()
    recall = (whole <= manifold_radii(points, 3)[:, None]).any(0).double().mean().item()
    assert precision_recall(points, reference) == pytest.approx((precision, recall), abs=1e-12)


def test_knows_the_corners():
    reference = cloud(200, seed=5)
    assert precision_recall(reference, reference) == (1.0, 1.0)
    assert precision_recall(reference + 1000, reference) == (0.0, 0.0)
    one_mode = reference[:1] + 1e-4 * cloud(50, seed=6)  # good pictures, all alike
    precision, recall = precision_recall(one_mode, reference)
    assert precision == 1.0
    assert recall < 0.05


def test_radii_given_are_the_radii_used():
    samples, reference = cloud(50, seed=7), cloud(70, seed=8)
    given = precision_recall(samples, reference, reference_radii=manifold_radii(reference, 3))
    assert given == precision_recall(samples, reference)
    assert precision_recall(samples, reference, reference_radii=torch.zeros(70))[0] == 0.0


def test_equal_points_are_neighbours_of_each_other():
    assert manifold_radii(torch.ones(5, 2), 3).tolist() == [0.0] * 5


@pytest.mark.parametrize(
    ("samples", "reference"),
    [(torch.zeros(3, 4), torch.zeros(9, 4)), (torch.zeros(9, 4), torch.zeros(9, 5)), (torch.zeros(9), torch.zeros(9))],
)
def test_refuses_what_it_cannot_serve(samples, reference):
    with pytest.raises(ValueError, match=r"got \["):
        precision_recall(samples, reference)


def test_refuses_radii_of_another_reference():
    with pytest.raises(ValueError, match="reference_radii"):
        precision_recall(cloud(9), cloud(9), reference_radii=torch.zeros(8))
