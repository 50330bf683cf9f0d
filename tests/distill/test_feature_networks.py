import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from pyaccel import zoo
from pyaccel.distill.feature_networks import FeatureNetwork, feature_network, pooled

F64 = torch.float64


class Eyes(nn.Module):
    """Tokens of patches of 2×2 pixels behind a token of its own, and their maps."""

    def __init__(self, channels=3, width=6):
        super().__init__()
        self.patches, self.token = nn.Conv2d(channels, width, 2, stride=2), nn.Parameter(torch.randn(1, 1, width))
        self.mixed = nn.Linear(width, 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.mixed(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)).mean(1)


def test_images_are_resized_normalised_and_made_grey_colours():
    eyes = Eyes().double()
    network = FeatureNetwork(
        eyes, ["patches", "mixed"], size=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), prefix=1
    )
    x = torch.rand(2, 1, 4, 4, dtype=F64) * 2 - 1
    maps, tokens = network(x)
    shown = nn.functional.interpolate(x, (8, 8), mode="bilinear", antialias=True).repeat(1, 3, 1, 1)
    for i, (mean, std) in enumerate(((0.4, 0.2), (0.5, 0.3), (0.6, 0.4))):
        shown[:, i] = ((shown[:, i] + 1) / 2 - mean) / std
    # The buffers are of float32.
    torch.testing.assert_close(maps, eyes.patches(shown), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(tokens, eyes.mixed(maps.flatten(2).transpose(1, 2)))
    assert tokens.shape == (2, 16, 4)
    assert network.widths(x[:1]) == [6, 4]
    torch.testing.assert_close(pooled([maps, tokens]), tokens.mean(1))
    torch.testing.assert_close(pooled([maps]), maps.mean((2, 3)))


def test_images_of_its_own_size_are_left_as_they_are():
    eyes, x = Eyes(channels=2).double(), torch.randn(2, 2, 4, 4, dtype=F64)
    assert torch.equal(FeatureNetwork(eyes, ["patches"])(x)[0], eyes.patches(x))
    assert torch.equal(FeatureNetwork(eyes, ["patches"], size=4, channels=2)(x)[0], eyes.patches(x))


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"Eyes sees images of 3 channels, got samples \[4, 8, 8\]; from Python any"):
        FeatureNetwork(Eyes(), ["patches"], channels=3)(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"sees images of 1 channels, got samples \[5\]"):
        feature_network("fashion-classifier")(torch.zeros(2, 5))


def test_errors():
    with pytest.raises(ValueError, match="one block or more"):
        FeatureNetwork(Eyes(), [])
    with pytest.raises(ValueError, match="mean and std belong together"):
        FeatureNetwork(Eyes(), ["patches"], mean=(0.5,))
    with pytest.raises(ValueError, match=r"unknown feature network 'dinov3'.*dinov2"):
        feature_network("dinov3")
    with pytest.raises(AttributeError, match="nowhere"):
        FeatureNetwork(Eyes(), ["nowhere"])(torch.zeros(1, 3, 4, 4))


def test_the_zoos_classifier():
    network, x = feature_network("fashion-classifier"), torch.randn(2, 1, 28, 28)
    features = network(x)
    assert [tuple(f.shape[1:]) for f in features] == [
        (32, 28, 28), (32, 28, 28), (64, 14, 14), (64, 14, 14), (128, 7, 7)
    ]  # fmt: skip
    assert network.widths(x[:1]) == [32, 32, 64, 64, 128]
    # The mean of the last ones is what the zoo calls its features.
    torch.testing.assert_close(pooled(features), zoo.load_model("fashion-classifier").features(x))


def test_gradients_flow_through_to_the_image():
    network, x = feature_network("fashion-classifier"), torch.randn(2, 1, 8, 8, requires_grad=True)
    for f in network(x):
        (gradient,) = torch.autograd.grad(f.square().sum(), x, retain_graph=True)
        assert float(gradient.abs().max()) > 0


def test_dinov2_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="pip install timm; or take fashion-classifier"):
        feature_network("dinov2")


def test_dinov2(monkeypatch):
    """What is asked of timm, with a network that has its parts in its place."""
    asked = []

    class Vision(nn.Module):
        num_prefix_tokens = 1

        def __init__(self):
            super().__init__()
            self.patches, self.blocks = nn.Conv2d(3, 5, 14, stride=14), nn.Sequential(*[nn.Linear(5, 5)] * 12)

        def forward(self, x):
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            return self.blocks(torch.cat([tokens[:, :1], tokens], 1))

    def create_model(name, **options):
        asked.append((name, options))
        return Vision()

    timm = ModuleType("timm")
    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    network = feature_network("dinov2")
    assert asked == [("vit_small_patch14_dinov2.lvd142m", {"pretrained": True, "img_size": 224, "num_classes": 0})]
    features = network(torch.zeros(2, 1, 28, 28))
    assert [tuple(f.shape) for f in features] == [(2, 256, 5)] * 5
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.network.training
