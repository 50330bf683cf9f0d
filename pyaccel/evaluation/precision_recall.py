"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991): are the samples like the real images,
and are the real images all covered?

A cloud's manifold is the union of balls around its points, each as wide as the way to the point's k-th neighbour.
Precision is the share of samples inside the manifold of the real images; recall is the share of real images inside
the manifold of the samples.
"""

from __future__ import annotations

import torch

BLOCK = 1024  # points per block of distances: 1024 × 5000 in float64 are 40 MB


def manifold_radii(features: torch.Tensor, k: int = 3) -> torch.Tensor:
    """The distance of each of the features [N, D] to its k-th nearest other point, [N] float64. ValueError if N ≤ k."""
    if k < 1 or features.dim() != 2 or len(features) <= k:
        raise ValueError(f"radii need features [N, D] with N > k >= 1, got {list(features.shape)} and k = {k}")
    points, radii = features.double(), []
    for start in range(0, len(points), BLOCK):
        distances = _distances(points[start : start + BLOCK], points)
        row = torch.arange(len(distances))
        distances[row, start + row] = torch.inf  # a point is no neighbour of its own; an equal point is
        radii.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def precision_recall(
    samples: torch.Tensor, reference: torch.Tensor, k: int = 3, reference_radii: torch.Tensor | None = None
) -> tuple[float, float]:
    """(precision, recall), both in [0, 1] and better when larger, of features [N, D] against reference features [M, D].

    ``reference_radii`` [M] saves computing ``manifold_radii(reference, k)`` anew. Distances are float64. Recall grows
    with N: compare only values of equal N. Raises ValueError when the widths differ or there are k points or fewer.
    """
    if samples.dim() != 2 or reference.dim() != 2 or samples.shape[1] != reference.shape[1]:
        raise ValueError(
            f"precision and recall need two matrices of equal width, got {list(samples.shape)} and "
            f"{list(reference.shape)}"
        )
    own = manifold_radii(samples, k)
    real = manifold_radii(reference, k) if reference_radii is None else reference_radii.double()
    if real.shape != (len(reference),):
        raise ValueError(f"reference_radii must have shape [{len(reference)}], got {list(real.shape)}")
    samples, reference = samples.double(), reference.double()
    inside, covered = 0, torch.zeros(len(reference), dtype=torch.bool)
    for start in range(0, len(samples), BLOCK):
        distances = _distances(samples[start : start + BLOCK], reference)
        inside += int((distances <= real).any(dim=1).sum())
        covered |= (distances <= own[start : start + BLOCK, None]).any(dim=0)
    return inside / len(samples), int(covered.sum()) / len(reference)


def _distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # By differences: |a|² + |b|² − 2ab, the quick way, gives equal points a distance above zero.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
