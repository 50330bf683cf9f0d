import pytest
import torch

from pyaccel.seeding import sample_noise, step_generator


def test_noise_depends_on_seed_and_index_alone():
    whole = sample_noise(3, range(10), (1, 4, 4))
    assert torch.equal(whole[4:7], sample_noise(3, range(4, 7), (1, 4, 4)))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, sample_noise(4, range(10), (1, 4, 4)))


def test_noise_is_unit_gaussian():
    noise = sample_noise(0, range(400), (1, 16, 16))
    assert noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(1, abs=0.02)


def test_negative_seeds_are_refused():
    with pytest.raises(ValueError, match="seed"):
        sample_noise(-1, range(2), (1,))


def test_step_generators_differ_by_every_argument():
    draws = {float(torch.rand((), generator=step_generator(*key))) for key in [(0, 0), (0, 1), (1, 0), (0, 0, 1)]}
    assert len(draws) == 4
    assert torch.equal(torch.rand(3, generator=step_generator(5, 6)), torch.rand(3, generator=step_generator(5, 6)))
