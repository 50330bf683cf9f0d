import pytest
import torch

from pyaccel.evaluation.frechet import moments
from pyaccel.evaluation.paired import paired_change


def test_the_pairing_narrows_the_interval():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    base = 1.2 * torch.randn(800, 6, generator=generator, dtype=torch.float64) + 0.3
    same = base + 0.01 * torch.randn(800, 6, generator=generator, dtype=torch.float64)
    other = 1.2 * torch.randn(800, 6, generator=generator, dtype=torch.float64) + 0.3
    paired, unpaired = paired_change(same, base, moments(real)), paired_change(other, base, moments(real))
    assert paired.low < 1.02
    assert paired.high > 0.98
    assert paired.high - paired.low < 0.3 * (unpaired.high - unpaired.low)
    worse = paired_change(base * 1.3, base, moments(real))
    assert worse.low > 1.1
    assert str(worse).startswith("+")
    with pytest.raises(ValueError, match="features of one shape"):
        paired_change(base[:5], base, moments(real))
