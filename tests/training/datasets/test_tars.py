import os

import numpy as np
import pytest
import torch

from pyaccel.training.datasets import epoch_indices, webdataset_shards

from .tars import npy, png, write_tar


@pytest.fixture
def latents():
    return np.random.default_rng(0).standard_normal((5, 4, 2, 2)).astype(np.float16)


def latent_members(latents, first=0):
    members = {}
    for i, latent in enumerate(latents, first):
        members |= {f"s/{i:03}.npy": npy(latent), f"s/{i:03}.cls": b"%d\n" % i, f"s/{i:03}.text.npy": npy(latent[:, 0])}
        members[f"s/{i:03}.json"] = b"{}"
    return members


@pytest.fixture
def shards(tmp_path, latents):
    write_tar(tmp_path / "t-09.tar", latent_members(latents[:3]))
    write_tar(tmp_path / "t-10.tar", latent_members(latents[3:], 3))
    return tmp_path


@pytest.mark.parametrize("pattern", ["", "t-{09..10}.tar", "*.tar"])
def test_latents_and_their_conditioning(shards, latents, pattern):
    data = webdataset_shards(f"{shards}/{pattern}", scale=2, shift=1)
    assert (len(data), data.shape, data.can_flip) == (5, (4, 2, 2), False)
    index = torch.tensor([4, 0, 2, 3])
    samples, conditioning = data.at(index)
    assert samples.dtype == torch.float32
    assert torch.allclose(samples, (torch.from_numpy(latents).float()[index] - 1) * 2)
    assert conditioning.keys() == {"label", "text"}
    assert conditioning["label"].tolist() == index.tolist()
    assert torch.equal(conditioning["text"], torch.from_numpy(latents[:, :, 0]).float()[index])
    with pytest.raises(ValueError, match="cannot be mirrored"):
        data.at(index, torch.ones(4, dtype=torch.bool))


def test_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    write_tar(tmp_path / "a.tar", {f"{i}.PNG": png(image) for i, image in enumerate(pixels)})
    data = webdataset_shards(tmp_path / "a.tar")
    assert (data.shape, data.can_flip) == ((3, 8, 8), True)
    images, conditioning = data.at(torch.tensor([2, 0]), torch.tensor([True, False]))
    expected = torch.from_numpy(pixels[[2, 0]].transpose(0, 3, 1, 2) / 127.5 - 1).float()
    assert conditioning == {}
    assert torch.allclose(images[0], expected[0].flip(-1), atol=1e-6)
    assert torch.allclose(images[1], expected[1], atol=1e-6)
    assert webdataset_shards(tmp_path / "a.tar", size=4, channels=1).at(torch.arange(3))[0].shape == (3, 1, 4, 4)


def test_an_epoch_reads_every_sample_once(shards):
    data = webdataset_shards(shards)
    labels = torch.cat([data.at(epoch_indices(5, step, 1, seed=2))[1]["label"] for step in range(5)])
    assert sorted(labels.tolist()) == list(range(5))


def test_keys_end_at_the_first_dot_of_the_base_name(tmp_path):
    members = {"v1.0/a.npy": npy(np.zeros(2)), "v1.0/a.t.npy": npy(np.ones(3)), ".hidden": b"", "v1.0/.b.npy": b""}
    data = webdataset_shards(write_tar(tmp_path / "a.tar", members))
    assert len(data) == 1
    assert data.at(torch.tensor([0]))[1]["t"].tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("s/001.npy", npy(np.array([None]), allow_pickle=True), "allow_pickle=False"),
        ("s/001.npy", npy(np.full((4, 2, 2), np.nan)), "NaN"),
        ("s/001.cls", b"cat", "no 64-bit integer"),
        ("s/001.cls", b"9" * 19, "no 64-bit integer"),
        ("s/001.text.npy", b"", "Error"),
    ],
)
def test_a_broken_sample_is_skipped_counted_and_named(tmp_path, latents, name, content, reason):
    write_tar(tmp_path / "a.tar", {**latent_members(latents), name: content})
    data = webdataset_shards(tmp_path)
    with pytest.warns(UserWarning, match=r"a\.tar:s/001 is broken .*; 1 of 5 so far"):
        _, conditioning = data.at(torch.tensor([0, 1, 3]))
    assert conditioning["label"].tolist() == [0, 2, 3]
    assert reason in data.broken[f"{tmp_path}{os.sep}a.tar:s/001"]


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"a.npy": npy(np.zeros(2)), "a.png": b""}, r"the sample a must have one of .*it has \.npy, \.png"),
        ({"a.pth": b"", "a.txt": b""}, r"the sample a must have one of \.npy, \.png.*it has \.pth, \.txt"),
        (
            {"a.npy": npy(np.zeros(2)), "a.cls": b"1", "b.npy": npy(np.zeros(2))},
            r"sample b has \.npy, and .*\.npy, \.cls",
        ),
        ({"a.npy": npy(np.zeros(2)), "a.cls": b"1", "a.label.npy": npy(np.zeros(2))}, "both the label"),
        ({"README": b""}, "no samples"),
    ],
)
def test_shards_that_hold_no_data(tmp_path, members, text):
    with pytest.raises(ValueError, match=r"a\.tar.*" + text):
        webdataset_shards(write_tar(tmp_path / "a.tar", members))


def test_a_key_that_comes_twice_is_named(tmp_path):
    members = {"./a.npy": npy(np.zeros(2)), "./a.NPY": npy(np.zeros(2))}
    with pytest.raises(ValueError, match=r"a\.NPY twice"):
        webdataset_shards(write_tar(tmp_path / "a.tar", members))


def test_samples_of_another_shape_are_named(tmp_path):
    members = {"a.npy": npy(np.zeros(2)), "b.npy": npy(np.zeros(3))}
    data = webdataset_shards(write_tar(tmp_path / "a.tar", members))
    with pytest.raises(ValueError, match=r"a\.tar:b has the shape \(3,\), and that of .*a\.tar:a \(2,\)"):
        data.at(torch.tensor([1]))
