import math

import torch
from torch import nn

from pyaccel.models.layers import Conditioning, GatedBranch, sinusoidal_embedding


def test_embedding_is_cosines_and_sines():
    e = sinusoidal_embedding(torch.tensor([0.0, 3.0]), 8)
    frequencies = [10000 ** (-i / 4) for i in range(4)]
    expected = [math.cos(3 * f) for f in frequencies] + [math.sin(3 * f) for f in frequencies]
    torch.testing.assert_close(e[1], torch.tensor(expected))
    assert e[0].tolist() == [1] * 4 + [0] * 4


def test_no_label_is_the_label_none():
    c = Conditioning(16, classes=5)
    t = torch.rand(3)
    torch.testing.assert_close(c(t, None), c(t, torch.full((3,), 5)))
    assert not torch.allclose(c(t, None), c(t, torch.zeros(3, dtype=torch.long)))


def test_gated_branch_is_its_formula():
    branch = GatedBranch(8, nn.Linear(8, 8))
    x, (shift, scale, gate) = torch.randn(2, 5, 8), torch.randn(3, 2, 1, 8)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    expected = x + gate * branch.function(normed * (1 + scale) + shift)
    torch.testing.assert_close(branch(x, shift, scale, gate), expected, rtol=1e-5, atol=1e-5)
