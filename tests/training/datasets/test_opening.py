import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pyaccel.training.datasets import ImageData, ImageFolder, LatentShards, TarShards, open_dataset

from .tars import npy, write_tar


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "cat").mkdir(parents=True)
    Image.new("RGB", (9, 8)).save(folder / "cat" / "a.png")
    return folder


@pytest.fixture
def latents(tmp_path):
    folder = tmp_path / "latents"
    folder.mkdir()
    save_file({"latents": torch.zeros(3, 4, 2, 2)}, folder / "0.safetensors")
    Image.new("RGB", (9, 8)).save(folder / "preview.png")
    return folder


@pytest.fixture
def tars(tmp_path):
    folder = tmp_path / "tars"
    folder.mkdir()
    write_tar(folder / "a-0.tar", {"a.npy": npy(np.zeros((4, 2, 2)))})
    return folder


def test_a_folder_of_images(images):
    data = open_dataset(str(images), size=8)
    assert isinstance(data, ImageFolder)
    assert data.shape == (3, 8, 8)
    assert open_dataset(images, size=4, channels=1).shape == (1, 4, 4)
    with pytest.raises(ValueError, match="say the size"):
        open_dataset(str(images))


@pytest.mark.parametrize("tail", ["", "/*.safetensors", "/0.safetensors", "/{0..0}.safetensors"])
def test_latents(latents, tail):
    assert isinstance(open_dataset(f"{latents}{tail}", size=2, channels=4), LatentShards)


@pytest.mark.parametrize("tail", ["", "/*.tar", "/a-{0..0}.tar"])
def test_tars(tars, tail):
    assert isinstance(open_dataset(f"{tars}{tail}", size=2, channels=4), TarShards)


def idx_files(folder):
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(
        bytes([0, 0, 8, 3, *(0, 0, 0, 1), *(0, 0, 0, 28) * 2]) + bytes(784)
    )
    (folder / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 9]))
    return folder


def test_fashion_mnist_by_name_and_by_folder(tmp_path, monkeypatch):
    folder = idx_files(tmp_path / "fashion")
    assert isinstance(open_dataset(str(folder)), ImageData)
    monkeypatch.setenv("PYACCEL_FASHION_MNIST", str(folder))
    data = open_dataset("fashion-mnist", size=28, channels=1)
    assert data.at(torch.tensor([0]))[1]["label"].tolist() == [9]


@pytest.mark.parametrize("wanted", [{"size": 32}, {"channels": 3}])
def test_samples_of_another_shape_than_wanted_are_refused(latents, wanted):
    with pytest.raises(ValueError, match=r"samples of \[4, 2, 2\], and .* was asked for"):
        open_dataset(str(latents), **wanted)


def test_what_is_no_data_says_what_was_found(tmp_path, images, latents):
    (tmp_path / "notes.txt").write_text("")
    cases = {
        tmp_path / "notes.txt": r"it is a \.txt file.*data are fashion-mnist",
        tmp_path / "non": r"there is no such file; .* holds folders \(2\), \.txt files \(1\)",
        tmp_path / "*.txt": r"it is a \.txt file",
        tmp_path / "none" / "a": "there is no folder",
        "s3://bucket/x.tar": "local files",
        "fashion_mnist": "there is no such file",
    }
    for text, message in cases.items():
        with pytest.raises(ValueError, match=message):
            open_dataset(str(text), size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no data that can be read, but nothing"):
        open_dataset(str(tmp_path / "empty"))
    (latents / "cat").symlink_to(images / "cat")
    with pytest.raises(ValueError, match=r"several kinds \(\.safetensors, images\)"):
        open_dataset(str(latents))
