"""Frozen networks that see images: what ADD's discriminator knows of the world."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..names import look_up
from .features import block_features, block_widths


class FeatureNetwork(nn.Module):
    """``forward(x)``: images [b, channels, h, w] in [−1, 1], or other samples -> what some blocks of a network give.

    Images of another size are resized (bilinear, with smoothing where they shrink), and grey ones shown to a network
    of colours as grey colours. ValueError for other channels. Gradients flow through to x.

    Args:
        network: any module that takes x alone.
        blocks: the names of the blocks, as ``network.get_submodule`` takes them, from the first on.
        size: of the network's images; None: any size.
        channels: of the network's images; None: any number.
        mean, std: what the network's images are normalised with, for images in [0, 1]; None: it takes [−1, 1].
        prefix: how many of its tokens [b, n, c] come before those of the image (class and register tokens): left out.
    """

    def __init__(
        self,
        network: nn.Module,
        blocks: Sequence[str],
        *,
        size: int | None = None,
        channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        prefix: int = 0,
    ):
        super().__init__()
        if not blocks:
            raise ValueError("a feature network needs the names of one block or more")
        self.network, self.blocks, self.size, self.channels, self.prefix = (
            network,
            tuple(blocks),
            size,
            channels,
            prefix,
        )
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std belong together, got {mean} and {std}")
        self.normalised = mean is not None
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values or [0.0]).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.channels is not None and (x.dim() != 4 or x.shape[1] not in (1, self.channels)):
            raise ValueError(
                f"the feature network {type(self.network).__name__} sees images of {self.channels} channels, got "
                f"samples {list(x.shape[1:])}; from Python any network serves: ADD().networks(teacher, "
                "FeatureNetwork(network, blocks))"
            )
        if self.channels is not None:
            x = x.expand(-1, self.channels, -1, -1)
        if self.size is not None and x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        if self.normalised:
            x = (0.5 * x + 0.5 - self.mean.to(x.dtype)) / self.std.to(x.dtype)
        features = block_features(self.network, self.blocks, x)
        return [f[:, self.prefix :] if f.dim() == 3 else f for f in features]

    def widths(self, *example: Tensor) -> list[int]:
        """The channels of its features, by a call on ``example``, a sample [1, ...].

        Without it, one of its own ``channels`` and ``size`` serves. ValueError where it has none, unless all blocks are
        linear.
        """
        if not example:
            if self.channels is None or self.size is None:
                return block_widths(self.network, self.blocks)
            like = next(self.network.parameters(), torch.empty(0))
            example = (like.new_zeros(1, self.channels, self.size, self.size),)
        like = next(self.network.parameters(), *example)
        with torch.no_grad():
            return [f.shape[1 if f.dim() == 4 else -1] for f in self(*(x.to(like.device) for x in example))]


def pooled(features: Sequence[Tensor]) -> Tensor:
    """The image embedding [b, c]: the mean over the places of the last block's features."""
    last = features[-1]
    return last if last.dim() == 2 else last.mean((2, 3) if last.dim() == 4 else 1)


def fashion_classifier() -> FeatureNetwork:
    """The zoo's classifier: its five layers after their ReLUs."""
    from .. import zoo

    blocks = tuple(f"trunk.{i}" for i in (2, 5, 9, 12, 16))
    return FeatureNetwork(zoo.load_model("fashion-classifier"), blocks, size=28, channels=1)


def dinov2() -> FeatureNetwork:
    """DINOv2's ViT-S/14 by the package ``timm``, which loads its weights: five of its twelve blocks.

    ValueError where the package is not installed.
    """
    try:
        import timm
    except ImportError:
        raise ValueError(
            "the features dinov2 need the package: pip install timm; or take fashion-classifier, or from Python any "
            "network: ADD().networks(teacher, FeatureNetwork(network, blocks))"
        ) from None
    network = timm.create_model("vit_small_patch14_dinov2.lvd142m", pretrained=True, img_size=224, num_classes=0)
    return FeatureNetwork(
        network.eval().requires_grad_(False), [f"blocks.{i}" for i in (2, 4, 6, 8, 11)], size=224, channels=3,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), prefix=network.num_prefix_tokens,
    )  # fmt: skip


FEATURE_NETWORKS = {"fashion-classifier": fashion_classifier, "dinov2": dinov2}


def feature_network(name: str) -> FeatureNetwork:
    """The feature network of this name; ValueError, with the nearest name, for an unknown one."""
    return look_up("feature network", name, FEATURE_NETWORKS)()
