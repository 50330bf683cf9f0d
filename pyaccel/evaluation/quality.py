"""The quality of samples in a classifier's features, against statistics of the real images that were stored before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..models import Classifier
from .frechet import Moments, frechet_distance, moments
from .precision_recall import manifold_radii, precision_recall

NEIGHBOURS = 3  # k of precision and recall, as in the paper
BATCH = 250


@dataclass(frozen=True)
class Quality:
    """``fid`` ≥ 0 (smaller is better); ``precision``, ``recall`` and ``accuracy`` in [0, 1] (larger is better)."""

    fid: float
    precision: float
    recall: float
    accuracy: float


@dataclass(frozen=True)
class Reference:
    """What is stored of the real images: ``moments`` of all features; ``features`` [M, D] float16 of some of them,
    with the ``radii`` [M] float32 of their balls."""

    moments: Moments
    features: torch.Tensor
    radii: torch.Tensor

    @classmethod
    def from_images(cls, classifier: Classifier, images: torch.Tensor, keep: int = 2000, seed: int = 0) -> Reference:
        """The statistics of images [N, C, H, W], uint8 or float in [−1, 1].

        ``keep`` of them, drawn by ``seed``, stand for the manifold of precision and recall; all N enter the moments.
        """
        features, _ = classify(classifier, images)
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
        kept = features[order[:keep]].half()
        return cls(moments(features), kept, manifold_radii(kept, NEIGHBOURS).float())

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """The reference as named tensors, for a safetensors file."""
        return {
            "features": self.features,
            "radii": self.radii,
            "moments.sum": self.moments.sum,
            "moments.outer": self.moments.outer,
            "moments.count": torch.tensor(self.moments.count),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> Reference:
        """The inverse of ``to_tensors``; ValueError that names what is missing."""
        names = ("features", "radii", "moments.sum", "moments.outer", "moments.count")
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ValueError(f"no reference statistics: {', '.join(missing)} missing among {sorted(tensors)}")
        sums = Moments(tensors["moments.sum"], tensors["moments.outer"], int(tensors["moments.count"]))
        return cls(sums, tensors["features"], tensors["radii"])


@torch.no_grad()
def classify(classifier: Classifier, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(features [N, D], logits [N, classes]), float32, of images [N, C, H, W], uint8 or float in [−1, 1].

    Floats are clamped to [−1, 1] first: a picture on a screen holds no others. The classifier works in evaluation
    mode and is left in the mode that it had.
    """
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images must have shape [N, C, H, W] with N >= 1, got {list(images.shape)}")
    training, parts, device = classifier.training, [], next(classifier.parameters()).device
    classifier.eval()
    try:
        for batch in images.split(BATCH):
            if batch.dtype == torch.uint8:
                batch = batch.float().div_(127.5).sub_(1)
            features = classifier.features(batch.to(device).float().clamp(-1, 1))
            parts.append((features.cpu(), classifier.head(features).cpu()))
    finally:
        classifier.train(training)
    return torch.cat([features for features, _ in parts]), torch.cat([logits for _, logits in parts])


def class_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of samples, with logits [N, classes], that the classifier takes for their label [N]."""
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"{len(logits)} samples need labels of shape [{len(logits)}], got {list(labels.shape)}")
    return float((logits.argmax(dim=1) == labels).double().mean())


def evaluate(samples: torch.Tensor, labels: torch.Tensor, classifier: Classifier, reference: Reference) -> Quality:
    """The quality of samples [N, C, H, W] in [−1, 1] that were drawn for labels [N]; N ≥ 4.

    Where a sampler diverged and any element is NaN or infinite, all four figures are NaN. Raises ValueError for wrong
    shapes and for a reference of another classifier's width.
    """
    if not torch.isfinite(samples).all():
        return Quality(math.nan, math.nan, math.nan, math.nan)
    return judge(*classify(classifier, samples), labels, reference)


def judge(features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, reference: Reference) -> Quality:
    """The same of samples that :func:`classify` has given features and logits."""
    accuracy = class_accuracy(logits, labels)
    precision, recall = precision_recall(features, reference.features, NEIGHBOURS, reference.radii)
    return Quality(frechet_distance(features, reference.moments), precision, recall, accuracy)


def rmse(samples: torch.Tensor, reference: torch.Tensor) -> float:
    """√ mean (samples − reference)² over all elements, in float64 and in units of pixels, whose range is [−1, 1].

    As trajectory error, ``reference`` is the solution of the same ODE from the same noise with many (200) steps.
    Raises ValueError when the shapes differ or are empty.
    """
    if samples.shape != reference.shape or samples.numel() == 0:
        raise ValueError(
            f"rmse needs two tensors of one shape that is not empty, got {list(samples.shape)} and "
            f"{list(reference.shape)}"
        )
    return float((samples.double() - reference.double()).square().mean().sqrt())
