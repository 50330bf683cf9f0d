import pytest
import torch

from pyaccel.evaluation.frechet import frechet_distance, moments
from pyaccel.evaluation.paired import bootstrap, paired_change


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


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    interval = bootstrap(lambda drawn: float(x[drawn].mean()), 2000, resamples=2000)
    half = 1.96 * float(x.std()) / 2000**0.5
    assert interval.value == float(x.mean())
    assert interval.low == pytest.approx(interval.value - half, abs=0.1 * half)
    assert interval.high == pytest.approx(interval.value + half, abs=0.1 * half)


def test_the_interval_of_a_frechet_distance_is_around_it():
    """Of equal clouds the distance is small, and that of any resample is larger."""
    generator = torch.Generator().manual_seed(0)
    real, x = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (4000, 400))
    interval = bootstrap(lambda drawn: frechet_distance(x[drawn], moments(real)), 400)
    assert interval.low < interval.value < interval.high
