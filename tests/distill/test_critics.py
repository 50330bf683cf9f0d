import copy
import warnings

import pytest
import torch
from torch import nn

from pyaccel.distill.critics import Critic
from pyaccel.models import DiT, UNet

from .references import Small, data


def tiny_dit():
    return DiT(size=8, patch=4, width=16, depth=3, heads=2, classes=3)


def tiny_unet():
    return UNet(size=8, width=8, multipliers=(1, 2), blocks=1, classes=3)


def opened(network):
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.2 * torch.randn_like(p))
    return network


@pytest.mark.parametrize(("make", "block", "width"), [(tiny_dit, "blocks.1", 16), (tiny_unet, "middle", 16)])
def test_logits_are_the_mean_of_the_head_over_the_places_of_the_middle_block(make, block, width):
    network = opened(make())
    seen = []
    network.get_submodule(block).register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    critic = Critic(network)
    assert critic.head[0].normalized_shape == (width,)
    seen.clear()
    x, t, label = torch.randn(3, 1, 8, 8), torch.rand(3), torch.tensor([0, 1, 3])
    output, logits = critic(x, t, label=label)
    torch.testing.assert_close(output, network(x, t, label))
    features = seen[0].detach()
    if features.dim() == 4:
        features = features.permute(0, 2, 3, 1).reshape(3, -1, width)
    normed = (features - features.mean(-1, keepdim=True)) / (features.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    h = normed @ critic.head[1].weight.T + critic.head[1].bias
    expected = (h * torch.sigmoid(h)) @ critic.head[3].weight.T + critic.head[3].bias
    torch.testing.assert_close(logits, expected.mean((1, 2)))


def test_features_of_two_dimensions():
    critic = Critic(Small()).double()
    x, labels = data()
    output, logits = critic(x, torch.rand(7, dtype=torch.float64), **labels)
    assert output.shape == x.shape
    assert logits.shape == (7,)


def test_gradients_reach_the_input_through_the_head():
    critic = Critic(opened(tiny_dit()))
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    _, logits = critic(x, torch.rand(2))
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert float(gradient.abs().max()) > 1e-6
    assert critic._features is None  # nothing is kept from one call to the next


def test_a_copy_sees_its_own_features():
    critic = Critic(opened(tiny_dit()))
    other = copy.deepcopy(critic)
    with torch.no_grad():
        for p in other.network.parameters():
            p.mul_(0.5)
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    first = critic(x, t)[1]
    assert float((other(x, t)[1] - first).detach().abs().max()) > 1e-5
    torch.testing.assert_close(critic(x, t)[1], first)


class Tuple(nn.Module):
    """A block as those of transformers of text and image: (text, image)."""

    def forward(self, x):
        return x.new_full((len(x), 2, 4), 7.0), x


class TwoStreams(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer_blocks = nn.ModuleList([Tuple()])

    def forward(self, x, t):
        return self.transformer_blocks[0](x[:, None])[1].flatten(1)


def test_of_text_and_image_the_image_counts():
    critic = Critic(TwoStreams(), width=4)
    x = torch.randn(3, 4)
    _, logits = critic(x, torch.rand(3))
    torch.testing.assert_close(logits, critic.head(x).squeeze(-1))


class Adapter(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, t):
        return self.inner(x, t)


def test_the_block_is_found_inside_of_an_adapter():
    critic = Critic(Adapter(TwoStreams()), width=4)
    assert critic(torch.randn(3, 4), torch.rand(3))[1].shape == (3,)


def test_errors():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, t):
            return self.two(self.one(x))

    with pytest.raises(ValueError, match="Plain has none of middle"):
        Critic(Plain())
    assert Critic(Plain(), bottleneck="one")(torch.zeros(2, 4), torch.rand(2))[1].shape == (2,)
    with pytest.raises(ValueError, match="say it: width="):
        Critic(TwoStreams())
    with pytest.raises(AttributeError, match="nowhere"):
        Critic(Plain(), bottleneck="nowhere")


@pytest.mark.parametrize("place", ["transformer_blocks.1", None])
def test_a_transformer_of_diffusers(place):
    diffusers = pytest.importorskip("diffusers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, out_channels=4, num_layers=3, norm_num_groups=2, sample_size=4
        )

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = model

        def forward(self, x, t, label):
            return self.transformer(x, t, class_labels=label).sample

    critic = Critic(Network(), bottleneck=place and f"transformer.{place}", width=16)
    output, logits = critic(torch.randn(2, 4, 4, 4), torch.tensor([3.0, 500.0]), label=torch.tensor([1, 2]))
    assert output.shape == (2, 4, 4, 4)
    assert logits.shape == (2,)
