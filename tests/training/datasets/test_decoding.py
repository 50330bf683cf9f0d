import errno
import io

import numpy as np
import pytest
from PIL import Image

from pyaccel.training.datasets.decoding import BrokenSample, check_image_shape, read_array, read_image


def encoded(pixels, kind="png", **options):
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("kind", ["png", "bmp", "webp"])
def test_an_image_of_the_right_size_is_read_to_the_bit(kind):
    pixels = noise(8, 8, 3)
    assert np.array_equal(read_image(encoded(pixels, kind, lossless=True), 8, 3), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width", "top", "left"), [(8, 13, 0, 2), (11, 8, 1, 0)])
def test_the_middle_square_is_kept(height, width, top, left):
    pixels = noise(height, width)
    assert np.array_equal(read_image(encoded(pixels), 8, 1)[0], pixels[top : top + 8, left : left + 8])


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_smaller_size_averages(kind):
    """On a ramp, averages over squares are known, and any symmetric filter gives them away from the border."""
    ramp = np.add.outer(np.arange(256), np.arange(256)).astype(np.float64) / 2
    small = read_image(encoded(ramp.round().astype(np.uint8), kind), 16, 1)[0]
    means = ramp.reshape(16, 16, 16, 16).mean((1, 3))
    assert np.abs(small - means)[1:-1, 1:-1].max() <= 1.5


def test_fine_patterns_do_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (128, 64))
    assert np.abs(read_image(encoded(stripes), 16, 1).astype(float) - 127.5)[..., 1:-1].max() < 5


def test_modes_become_the_channels():
    grey, red = noise(4, 4), np.full((4, 4, 3), (200, 0, 0), np.uint8)
    assert np.array_equal(read_image(encoded(grey), None, 3), np.stack([grey] * 3))
    assert read_image(encoded(red), None, 1).shape == (1, 4, 4)
    assert np.array_equal(read_image(encoded(Image.fromarray(red).quantize(4)), None, 3), red.transpose(2, 0, 1))
    deep = grey.astype(np.uint16) << 8
    assert np.array_equal(read_image(encoded(deep), None, 1)[0], grey)


def test_what_is_transparent_is_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, :, 3] = 255
    assert read_image(encoded(pixels), None, 1)[0].tolist() == [[0, 0], [255, 255]]


def test_images_stand_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90° when it is shown
    pixels = noise(4, 6)
    assert np.array_equal(read_image(encoded(pixels, "png", exif=exif), None, 1)[0], np.rot90(pixels, -1))


@pytest.mark.parametrize(
    "content", [b"", b"text", encoded(noise(32, 32))[:-600], encoded(noise(64, 64), "jpeg")[:900], b"GIF89a"]
)
def test_broken_images_say_why(content):
    with pytest.raises(BrokenSample, match=r"\w+Error: "):
        read_image(content, 8, 3)


def test_a_damaged_chunk_is_a_broken_image():
    content = bytearray(encoded(noise(32, 32)))
    content[200] ^= 255
    with pytest.raises(BrokenSample):
        read_image(bytes(content), 8, 1)


def test_a_shortage_of_the_process_is_not_the_fault_of_the_file(monkeypatch):
    def no_more(*args, **kwargs):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Image, "open", no_more)
    with pytest.raises(OSError, match="Too many"):
        read_image("x.png", 8, 3)


@pytest.mark.parametrize(("size", "channels"), [(8, 2), (0, 3), (-4, 1)])
def test_images_that_cannot_be_made(size, channels):
    with pytest.raises(ValueError, match=f"channels={channels}"):
        check_image_shape(size, channels)


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("given", "read"),
    [("<f2", "float32"), (">f8", "float32"), ("<u2", "int64"), (">i4", "int64"), ("bool", "bool")],
)
def test_arrays(given, read):
    array = np.array([[1, 0, 3]]).astype(given)
    found = read_array(npy(array))
    assert found.dtype == read
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", npy(np.arange(9.0))[:-8], npy(np.array([{}], object), allow_pickle=True), npy(np.array(["a"]))],
)
def test_arrays_that_are_none_say_why(content):
    with pytest.raises(BrokenSample, match=r"Error: |numbers were expected"):
        read_array(content)
