import pytest
import torch

from pyaccel.training.datasets.pairs import Pairs
from pyaccel.training.teacher import TeacherData


def test_samples_stand_with_their_noise_and_conditioning():
    noise, samples, text = torch.randn(9, 2, 3), torch.randn(9, 2, 3), torch.randn(9, 5)
    pairs = Pairs(TeacherData(noise, samples, {"text": text}))
    index = torch.tensor([4, 0, 8])
    x, conditioning = pairs.at(index)
    assert torch.equal(x, samples[index])
    assert torch.equal(pairs.noise_at(index), noise[index])
    assert torch.equal(conditioning["text"], text[index])
    assert (len(pairs), pairs.shape) == (9, (2, 3))
    with pytest.raises(ValueError, match="cannot be mirrored"):
        pairs.at(index, torch.ones(3, dtype=torch.bool))
    with pytest.raises(IndexError):
        pairs.noise_at(torch.tensor([9]))
