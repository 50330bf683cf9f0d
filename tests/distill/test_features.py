import pytest
import torch
from torch import nn

from pyaccel.distill.critics import Critic
from pyaccel.distill.features import all_blocks, block_features, block_widths, example_of
from pyaccel.models import DiT, UNet

from .references import Small


def test_the_blocks_of_networks():
    dit, unet = DiT(size=8, patch=4, width=16, depth=3, heads=2), UNet(size=8, width=8, multipliers=(1, 2), blocks=1)
    assert all_blocks(dit) == ("blocks.0", "blocks.1", "blocks.2")
    assert all_blocks(unet) == ("down.0", "down.1", "middle", "up.0", "up.1", "up.2", "up.3")
    adapter = nn.Sequential(dit)
    assert all_blocks(adapter) == ("0.blocks.0", "0.blocks.1", "0.blocks.2")
    assert block_widths(dit, all_blocks(dit), *example_of(dit)) == [16, 16, 16]
    assert block_widths(unet, all_blocks(unet), *example_of(unet)) == [8, 16, 16, 16, 16, 8, 8]
    with pytest.raises(ValueError, match=r"Linear has none of blocks, .*name the blocks"):
        all_blocks(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="say it: width="):
        block_widths(nn.Sequential(nn.Tanh()), ["0"])


def test_features_are_what_the_blocks_give_and_no_hook_stays():
    network, x, t = Small(), torch.randn(5, 3, 2, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    first, second = block_features(network, ["hidden.0", "hidden.1"], x, t, label=torch.arange(5) % 4)
    inputs = torch.cat([x.flatten(1), t[:, None], t[:, None], (t * t)[:, None]], 1)
    torch.testing.assert_close(first, network.hidden[0](inputs))
    middle = torch.sin(first + network.label(torch.arange(5) % 4))
    torch.testing.assert_close(second, network.hidden[1](middle))
    swapped = block_features(network, ["hidden.1", "hidden.0"], x, t, label=torch.arange(5) % 4)
    torch.testing.assert_close(swapped, [second, first])
    assert not any(m._forward_hooks for m in network.modules())
    with pytest.raises(RuntimeError):
        block_features(network, ["hidden.0"], x[:, :1], t)
    assert not any(m._forward_hooks for m in network.modules())


def test_blocks_of_a_unet_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    names = all_blocks(network)
    assert names == ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1")
    assert block_widths(network, names, torch.zeros(1, 1, 8, 8), torch.ones(1)) == [8, 16, 16, 16, 8]


class TwoStreams(nn.Module):
    """Blocks of text and image, as FLUX and SD3 have them (text first) or HunyuanVideo, Mochi and CogVideoX."""

    def __init__(self, text_first: bool, keywords: bool, text: int = 3):
        super().__init__()
        self.blocks, self.keywords, self.text = nn.ModuleList([Block(text_first), Block(text_first)]), keywords, text

    def forward(self, x, t):
        text = x.new_zeros(len(x), self.text, 2) + t[:, None, None]
        for block in self.blocks:
            both = block(hidden_states=x, encoder_hidden_states=text) if self.keywords else block(x, text)
            text, x = both if block.text_first else reversed(both)
        return x


class Block(nn.Module):
    def __init__(self, text_first: bool):
        super().__init__()
        self.text_first, self.image = text_first, nn.Linear(2, 2)

    def forward(self, hidden_states, encoder_hidden_states):
        image, text = self.image(hidden_states), 2 * encoder_hidden_states
        return (text, image) if self.text_first else (image, text)


@pytest.mark.parametrize("text_first", [True, False])
@pytest.mark.parametrize("keywords", [True, False])
def test_the_image_of_text_and_image(text_first, keywords):
    network, x, t = TwoStreams(text_first, keywords), torch.randn(4, 5, 2), torch.rand(4)
    first, second = block_features(network, ["blocks.0", "blocks.1"], x, t)
    torch.testing.assert_close(first, network.blocks[0].image(x))
    torch.testing.assert_close(second, network(x, t))
    torch.testing.assert_close(Critic(network, "blocks.1", 2)(x, t)[0], second)


def test_as_many_tokens_of_text_as_of_the_image_are_refused():
    network, x, t = TwoStreams(False, True, text=5), torch.randn(4, 5, 2), torch.rand(4)
    with pytest.raises(ValueError, match=r"which of \[\[4, 5, 2\], \[4, 5, 2\]\], the outputs of Block,.* name a part"):
        block_features(network, ["blocks.1"], x, t)
    (image,) = block_features(network, ["blocks.1.image"], x, t)
    torch.testing.assert_close(image, network(x, t))
