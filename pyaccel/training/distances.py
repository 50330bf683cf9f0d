"""Distances of a student's samples to the teacher's, one number for each sample: what GS and its kin minimise."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..names import look_up

Distance = Callable[[Tensor, Tensor], Tensor]
"""(samples [B, ...], targets [B, ...]) -> [B]"""


def l1(samples: Tensor, targets: Tensor) -> Tensor:
    """The mean absolute difference of each sample."""
    return (samples - targets).flatten(1).abs().mean(1)


def l2(samples: Tensor, targets: Tensor) -> Tensor:
    """The mean squared difference of each sample."""
    return (samples - targets).flatten(1).square().mean(1)


def psnr(samples: Tensor, targets: Tensor) -> Tensor:
    """log10 of :func:`l2`, minus a tenth of the PSNR, as BNS minimises it (Shaul et al. 2024, arXiv 2403.01329)."""
    return l2(samples, targets).clamp_min(1e-12).log10()


def pseudo_huber(samples: Tensor, targets: Tensor) -> Tensor:
    """√(‖d‖² + c²) − c with c = 0.00054·√n for n elements (Song & Dhariwal 2023, arXiv 2310.14189), over √n."""
    difference = (samples - targets).flatten(1)
    c = 0.00054
    return (difference.square().mean(1) + c * c).sqrt() - c


def features_of(network: Callable[[Tensor], Tensor], pixels: float = 3.0) -> Distance:
    """The squared difference in the features [B, D] of a network, plus ``pixels`` times that of the pixels.

    Each is over the mean square of the target's own, so that both are shares. Features are made with gradients to their
    input; those of the target without.
    """

    def distance(samples: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = network(targets).flatten(1)
        difference = network(samples).flatten(1) - wanted
        of_pixels = l2(samples, targets) / targets.square().mean().clamp_min(1e-12)
        return difference.square().mean(1) / wanted.square().mean().clamp_min(1e-12) + pixels * of_pixels

    return distance


@functools.cache  # asked for at every step, and its network is large
def lpips(device: torch.device | str = "cpu", net: str = "vgg") -> Distance:
    """LPIPS (Zhang et al. 2018) by the package ``lpips``, for images [B, 1 or 3, H, W] in [−1, 1], as it comes.

    ValueError where the package is not installed.
    """
    try:
        import lpips as package
    except ImportError:
        raise ValueError("the objective lpips needs the package: pip install lpips; or take l1 or l2") from None
    measure: nn.Module = package.LPIPS(net=net).to(device).eval().requires_grad_(False)

    def distance(samples: Tensor, targets: Tensor) -> Tensor:
        pictures = [x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x for x in (samples, targets)]
        return measure(*pictures).flatten()

    return distance


DISTANCES: dict[str, Distance] = {"l1": l1, "l2": l2, "pseudo-huber": pseudo_huber, "psnr": psnr}


def distance_of(
    name: str, device: torch.device | str = "cpu", features: Callable | None = None, pixels: float = 3.0
) -> Distance:
    """The distance called ``name``; ``features`` and ``pixels`` are those of "features" (:func:`features_of`)."""
    if name == "lpips":
        return lpips(device)
    if name == "features":
        if features is None:
            raise ValueError("the objective features needs a network that gives features [B, D]")
        return features_of(features, pixels)
    return look_up("objective", name, DISTANCES | dict.fromkeys(("lpips", "features")))
