import gzip
import struct

import pytest
import torch

from pyaccel.training.datasets import ImageData, epoch_indices, fashion_mnist, step_flips


@pytest.fixture
def data():
    return ImageData(torch.arange(20 * 4, dtype=torch.uint8).view(20, 1, 2, 2), torch.arange(20))


def batch(data, step, size, seed, flip=True):
    """(images, labels) of a step, as the Trainer asks for them."""
    index = epoch_indices(len(data), step, size, seed)
    images, conditioning = data.at(index, step_flips(step, size, seed) if flip else None)
    return images, conditioning["label"]


def test_an_epoch_shows_every_image_once(data):
    labels = torch.cat([batch(data, step, 5, seed=0)[1] for step in range(4)])
    assert sorted(labels.tolist()) == list(range(20))
    second = torch.cat([batch(data, step, 5, seed=0)[1] for step in range(4, 8)])
    assert sorted(second.tolist()) == list(range(20))
    assert second.tolist() != labels.tolist()


def test_a_batch_depends_on_seed_and_step_alone(data):
    for a, b in zip(batch(data, 7, 5, seed=1), batch(data, 7, 5, seed=1), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(batch(data, 7, 5, seed=1)[1], batch(data, 7, 5, seed=2)[1])


def test_images_are_scaled_and_flipped(data):
    images, labels = batch(data, 0, 20, seed=0, flip=False)
    assert torch.equal(images, data.images[labels].float() / 127.5 - 1)
    flipped, _ = batch(data, 0, 20, seed=0, flip=True)
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 0 < int(mirrored.sum()) < 20


def test_a_batch_larger_than_the_data_is_refused(data):
    with pytest.raises(ValueError, match="only 20"):
        batch(data, 0, 21, seed=0)


def test_images_by_their_indices(data):
    index = torch.tensor([3, 0, 3])
    images, conditioning = data.at(index, torch.tensor([False, True, True]))
    plain = data.images[index].double() / 127.5 - 1
    assert data.shape == (1, 2, 2)
    assert data.can_flip
    assert torch.allclose(images.double(), torch.stack([plain[0], plain[1].flip(-1), plain[2].flip(-1)]), atol=1e-6)
    assert conditioning["label"].tolist() == [3, 0, 3]


@pytest.mark.parametrize(
    ("index", "error", "text"),
    [
        (torch.tensor([0, 20]), IndexError, "of 20 samples"),
        (torch.tensor([-1]), IndexError, "-1"),
        (torch.tensor([0.0]), ValueError, "float32"),
        (torch.tensor(3), ValueError, "b >= 1"),
        (torch.empty(0, dtype=torch.int64), ValueError, "b >= 1"),
    ],
)
def test_indices_that_are_none_are_refused(data, index, error, text):
    with pytest.raises(error, match=text):
        data.at(index)


def test_flips_of_another_length_are_refused(data):
    with pytest.raises(ValueError, match=r"bool \[2\]"):
        data.at(torch.tensor([0, 1]), torch.tensor([True]))


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_idx_files(tmp_path, zipped):
    images, labels = torch.randint(256, (3, 28, 28), dtype=torch.uint8), torch.tensor([1, 9, 4], dtype=torch.uint8)
    for name, magic, tensor in (("images-idx3", 0x803, images), ("labels-idx1", 0x801, labels)):
        content = struct.pack(f">{1 + tensor.dim()}I", magic, *tensor.shape) + tensor.numpy().tobytes()
        path = tmp_path / f"t10k-{name}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    data = fashion_mnist("test", tmp_path)
    assert torch.equal(data.images, images[:, None])
    assert data.labels.tolist() == [1, 9, 4]


def test_missing_data_says_how_to_get_it(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        fashion_mnist("train", tmp_path)
    monkeypatch.setenv("PYACCEL_FASHION_MNIST", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        fashion_mnist()
    with pytest.raises(ValueError, match="validation"):
        fashion_mnist("validation")
