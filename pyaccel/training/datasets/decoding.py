"""One image or array from its file, or a :class:`BrokenSample` that says why there is none. Nothing is unpickled."""

from __future__ import annotations

import errno
import io
import os

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# By content, whatever the suffix says: Pillow knows formats that start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MODES = {1: "L", 3: "RGB"}
# A want of this process, not a fault of the file: to skip the file would change what is trained on.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class BrokenSample(Exception):
    """A sample that cannot be read; the text is the reason."""


def check_image_shape(size: int | None, channels: int) -> None:
    """ValueError unless images of this size (pixels; None: as they are) and number of channels can be made."""
    if channels not in _MODES or (size is not None and size < 1):
        raise ValueError(f"images can have 1 or 3 channels and size >= 1, got channels={channels} and size={size}")


def read_image(source: str | os.PathLike | bytes, size: int | None, channels: int) -> np.ndarray:
    """The image of a file or of a file's bytes, uint8 [channels, H, W].

    It stands upright (EXIF), transparent parts are white, and with ``size`` it is cropped to the square in its
    middle, which is resized to ``size`` × ``size`` by averages and a Lanczos filter. Raises BrokenSample.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
            if size is not None:
                image.draft(None, (3 * size, 3 * size))  # JPEG: decodes no more pixels than the filter can use
            upright = _in_mode(ImageOps.exif_transpose(image), _MODES[channels])
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds
        if isinstance(error, OSError) and error.errno in _SHORTAGES:
            raise
        raise BrokenSample(f"{type(error).__name__}: {error}") from error
    if size is not None:
        side = min(upright.size)
        left, top = ((length - side) // 2 for length in upright.size)
        square = upright.crop((left, top, left + side, top + side))
        upright = square.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    pixels = np.asarray(upright)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def read_array(content: bytes) -> np.ndarray:
    """The array of an .npy file: float32, int64 or bool. Raises BrokenSample, also for objects, which are pickles."""
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise BrokenSample(f"{type(error).__name__}: {error}") from error
    if array.dtype.kind not in "fiub":
        raise BrokenSample(f"it holds {array.dtype}, and numbers were expected")
    if array.dtype.kind == "b":
        return array
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
