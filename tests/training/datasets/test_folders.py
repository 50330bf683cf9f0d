import numpy as np
import pytest
import torch
from PIL import Image

from pyaccel.training.datasets import epoch_indices, image_folder


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


def write(root, names, pixels):
    for name, image in zip(names, pixels, strict=False):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


CLASSES = ["cat/b.png", "ant/10.PNG", "ant/deep/er/1.png", "cat/a.bmp", "bee/x.png", "bee/y.png"]


def test_subfolders_are_the_classes(tmp_path, pixels):
    write(tmp_path, CLASSES, pixels)
    (tmp_path / "ants-without-images").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("")
    write(tmp_path, [".hidden/z.png", "cat/.z.png", "cat/.hid/z.png"], pixels)
    data = image_folder(tmp_path, 8)
    assert (len(data), data.shape, data.classes) == (6, (3, 8, 8), ("ant", "bee", "cat"))
    images, conditioning = data.at(torch.arange(6))
    assert conditioning["label"].tolist() == [0, 0, 1, 1, 2, 2]
    in_order = pixels[[1, 2, 4, 5, 3, 0]].transpose(0, 3, 1, 2)
    assert torch.allclose(images.double(), torch.from_numpy(in_order / 127.5 - 1), atol=1e-6)


def test_without_subfolders_there_is_no_label(tmp_path, pixels):
    write(tmp_path, [f"{i}.png" for i in range(6)], pixels)
    data = image_folder(tmp_path, 4, channels=1)
    images, conditioning = data.at(torch.tensor([5, 0]), torch.tensor([True, False]))
    assert images.shape == (2, 1, 4, 4)
    assert images.dtype == torch.float32
    assert conditioning == {}
    assert torch.equal(images[0].flip(-1), data.at(torch.tensor([5]))[0][0])
    assert data.classes == ()


@pytest.mark.filterwarnings("ignore:.*is broken")
def test_a_broken_image_is_skipped_counted_and_named(tmp_path, pixels):
    write(tmp_path, CLASSES, pixels)
    whole = image_folder(tmp_path, 8).at(torch.arange(6))
    broken = tmp_path / "bee" / "y.png"
    broken.write_bytes(broken.read_bytes()[:-100])
    data = image_folder(tmp_path, 8)
    with pytest.warns(UserWarning, match=r"bee/y\.png is broken .*; 1 of 6 so far"):
        images, conditioning = data.at(torch.tensor([3, 0]))
    assert list(data.broken) == [str(broken)]
    assert torch.equal(images, whole[0][[4, 0]])  # the next one, with its own label
    assert conditioning["label"].tolist() == [2, 0]
    again = image_folder(tmp_path, 8)
    again.at(torch.arange(6))
    assert torch.equal(again.at(torch.tensor([3, 0]))[0], images)


@pytest.mark.filterwarnings("ignore:.*is broken")
def test_a_folder_of_broken_images_is_an_error(tmp_path, pixels):
    write(tmp_path, ["a.png"], pixels)
    for name in ("b.png", "c.png"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(ValueError, match=r"2 of the 3 samples .*b\.png for one"):
        image_folder(tmp_path, 8).at(torch.arange(3))


@pytest.mark.filterwarnings("ignore:.*is broken")
def test_images_that_vanish_during_a_training_end_it(tmp_path, pixels):
    names = [f"{i:02}.png" for i in range(40)]
    write(tmp_path, names, [pixels[0]] * 40)
    data = image_folder(tmp_path, 8)
    data.at(torch.arange(40))
    for name in names:
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="No such file"):
        data.at(torch.arange(3))


def test_an_epoch_reads_every_image_once(tmp_path, pixels):
    write(tmp_path, CLASSES, pixels)
    data = image_folder(tmp_path, 8)
    once = torch.cat([data.at(epoch_indices(6, step, 2, seed=5))[0] for step in range(3)])
    expected = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 127.5 - 1).float()
    differences = (once[:, None] - expected).abs().amax((2, 3, 4))
    assert sorted(differences.argmin(1).tolist()) == list(range(6))
    assert differences.amin(1).max() < 1e-6


def test_folders_that_hold_no_images_say_what_they_hold(tmp_path, pixels):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        image_folder(tmp_path / "none", 8)
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no images \(\.png.*holds \.txt files \(1\), folders \(1\)"):
        image_folder(tmp_path, 8)
    write(tmp_path, ["x.png", "ant/y.png"], pixels)
    with pytest.raises(ValueError, match=r"x\.png.*subfolders \(ant"):
        image_folder(tmp_path, 8)
    with pytest.raises(ValueError, match="channels=2"):
        image_folder(tmp_path, 8, channels=2)
