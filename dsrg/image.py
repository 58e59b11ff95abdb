"""Pictures and masks: decoding of every common kind, scaling down, placing on the canvas.

PIL speaks of (width, height); everything that leaves this module is (height, width).
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dsrg.places import is_remote

MAX_PIXELS = 100_000_000
_MOST_UNDECODED = 4  # times that may lie in a JPEG of which only a part is decoded
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Named, because PIL would hand others to outside programs: Ghostscript for EPS.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_BACKDROP = (255, 255, 255)
_SWAPPED = (5, 6, 7, 8)  # EXIF orientations that turn by a right angle
_ROOM = 3  # a JPEG of this many times the wanted size or more is decoded at a half, quarter or eighth
# What PIL's decoders let through on broken bytes, beside its own UnidentifiedImageError (an OSError).
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_WAY_OUT = "put a whole one in its place, or take it out"


class DecodeError(Exception):
    """A picture or mask cannot be read; the message is the reason, without the file's name."""


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a picture as 8-bit RGB, the right way up.

    The EXIF orientation is applied. Greyscale, palette and CMYK pictures become RGB; 16-bit ones
    are scaled to 8 bits over their full range (65535 becomes 255), not by their own maximum.
    Transparent pixels are laid on white, as viewers do. Of an animation the first frame is taken.

    Parameters
    ----------
    path : Path
        The file. Its content decides the format, not its suffix.
    max_pixels : int
        Larger pictures are refused before they are decoded (decompression bombs).

    Returns
    -------
    (H, W, 3) uint8

    Raises
    ------
    DecodeError
        Missing, empty, truncated, corrupt, too large, or no picture.
    """
    with _open_decoded(path, max_pixels) as (image, _):
        return np.array(_convert_to_rgb(image))


def read_scaled_image(
    path: Path, canvas: int, *, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Read a picture as :func:`read_image` does, scaled down to fit a canvas.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, never at less than three times
    the wanted one, and scaled down from there: a tenth of the time, and pixels that differ from those of
    the full decoding by a grey level or so. All others equal ``scale_image(read_image(path), ...)``.

    Parameters
    ----------
    path : Path
        The file. Its content decides the format, not its suffix.
    canvas : int
        ``S``: the longest side allowed, pixels; see :func:`fit_size`.
    max_pixels : int
        Larger pictures are refused before they are decoded (decompression bombs); of a JPEG what is decoded
        counts, if it is no more than four times as large itself.

    Returns
    -------
    (h, w, 3) uint8
        The picture, scaled.
    (H, W)
        Its size before.

    Raises
    ------
    DecodeError
        As :func:`read_image`.
    """
    with _open_decoded(path, max_pixels, canvas=canvas) as (image, original):
        return scale_image(np.array(_convert_to_rgb(image)), fit_size(original, canvas)), original


def read_mask(path: Path, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a mask: class ids as they are stored, palettes ignored.

    Parameters
    ----------
    path : Path
        An 8-bit greyscale or palette PNG; 16-bit greyscale if no value is over 255.

    Returns
    -------
    (H, W) uint8
        Class ids, or 255 for ignored.

    Raises
    ------
    DecodeError
        As `read_image`, or a picture of colours instead of ids.
    """
    with _open_decoded(path, max_pixels) as (image, _):
        if image.mode not in {"1", "L", "P"} and not image.mode.startswith("I"):
            raise DecodeError(
                f"is a {image.mode} picture: a mask is an 8-bit palette or greyscale PNG that holds class ids"
            )
        ids = np.array(image)
    if ids.dtype == np.uint8 or ids.dtype == np.bool_:
        return ids.astype(np.uint8)
    if ids.min() < 0 or ids.max() > 255:
        worst = int(ids.max() if ids.max() > 255 else ids.min())
        raise DecodeError(f"holds {worst}: mask values go from 0 to 255")
    return ids.astype(np.uint8)


@contextmanager
def _open_decoded(
    path: Path, max_pixels: int, *, canvas: int | None = None
) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """Open, check the size, decode, and turn upright; every failure becomes a DecodeError.

    Yields the picture, for a canvas perhaps at a fraction of its size, and its upright (height, width).
    """
    try:
        if path.stat().st_size == 0:
            raise DecodeError(f"is empty (0 bytes): {_WAY_OUT}")
        with warnings.catch_warnings():
            # Our own limit below speaks; PIL's remarks on odd metadata concern no pixel.
            warnings.simplefilter("ignore")
            opened = io.BytesIO(path.read_bytes()) if is_remote(path) else path
            with Image.open(opened, formats=_FORMATS) as image:
                original = (image.height, image.width)
                if canvas is not None and math.prod(original) <= _MOST_UNDECODED * max_pixels:
                    _decode_small(image, canvas)
                if image.width * image.height > max_pixels:
                    raise DecodeError(
                        f"is {original[0]} x {original[1]} pixels, more than the {max_pixels} allowed: "
                        "scale it down"
                    )
                image.load()
                if image.getexif().get(ExifTags.Base.Orientation) in _SWAPPED:
                    original = original[::-1]
                ImageOps.exif_transpose(image, in_place=True)
    except FileNotFoundError as error:
        raise DecodeError("not found") from error
    except UnidentifiedImageError as error:
        raise DecodeError(f"is no picture, or of an unknown format: {_WAY_OUT}") from error
    except _BROKEN as error:
        raise DecodeError(f"cannot be decoded ({_describe(error)}): {_WAY_OUT}") from error
    yield image, original


def _decode_small(image: Image.Image, canvas: int) -> None:
    """Have a JPEG decoded at the smallest fraction that leaves room for a good scaling; others stay."""
    height, width = fit_size((image.height, image.width), canvas)
    if image.format == "JPEG" and _ROOM * max(height, width) < max(image.size):
        image.draft(None, (_ROOM * width, _ROOM * height))


def _describe(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _reduce_to_8_bits(image)
    elif image.mode == "F":
        raise DecodeError("holds floating-point values of unknown range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        backdrop = Image.new("RGBA", layer.size, (*_BACKDROP, 255))
        image = Image.alpha_composite(backdrop, layer)
    return image.convert("RGB")


def _reduce_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DecodeError("holds values outside 0 to 65535: save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def fit_size(size: Sequence[int], canvas: int) -> tuple[int, int]:
    """Fit a size into the canvas: never larger than it was, aspect ratio kept, at least one pixel.

    Parameters
    ----------
    size : (height, width)
    canvas : int
        ``S``: side of the canvas in pixels.

    Returns
    -------
    (height, width)

    Examples
    --------
    >>> fit_size((500, 1000), 320), fit_size((200, 100), 320)
    ((160, 320), (200, 100))
    """
    height, width = int(size[0]), int(size[1])
    longest = max(height, width)
    if longest <= canvas:
        return height, width
    return max(1, round(height * canvas / longest)), max(1, round(width * canvas / longest))


def scale_image(image: NDArray[np.uint8], size: Sequence[int]) -> NDArray[np.uint8]:
    """Scale a picture with Lanczos filtering, widened when scaling down so that nothing aliases.

    By torch, in a quarter of PIL's time: first along rows, then along columns, with a grey level or two of
    rounding, where PIL takes the columns of a very tall picture first.

    Parameters
    ----------
    image : (H, W, 3) uint8
        Not modified.
    size : (height, width)

    Returns
    -------
    (height, width, 3) uint8
        `image` itself if it has that size already.
    """
    if image.shape[:2] == tuple(size):
        return image
    import torch  # takes two seconds: not for pictures that fit as they are

    batch = torch.from_numpy(np.require(image, requirements=["C", "W"])[None]).permute(0, 3, 1, 2)
    planes = torch.nn.functional.interpolate(
        batch, (int(size[0]), int(size[1])), mode="lanczos", antialias=True, align_corners=False
    )
    scaled = np.empty((int(size[0]), int(size[1]), 3), np.uint8)
    for channel, plane in enumerate(planes[0].numpy()):  # a fifth of the time of a transposed copy
        scaled[..., channel] = plane
    return scaled


def scale_label_map(label_map: NDArray[np.uint8], size: Sequence[int]) -> NDArray[np.uint8]:
    """Scale a label map by taking the nearest pixel, so that no id is invented.

    Parameters
    ----------
    label_map : (H, W) uint8
        Not modified.
    size : (height, width)

    Returns
    -------
    (height, width) uint8
        `label_map` itself if it has that size already.
    """
    if label_map.shape == tuple(size):
        return label_map
    scaled = Image.fromarray(label_map).resize((int(size[1]), int(size[0])), Image.Resampling.NEAREST)
    return np.array(scaled)


def place_on_canvas(picture: NDArray[np.uint8], canvas: int, *, fill: int) -> NDArray[np.uint8]:
    """Place a picture or label map in the top left corner of a square canvas.

    Parameters
    ----------
    picture : (H, W) or (H, W, 3) uint8
        No side longer than `canvas`. Not modified.
    canvas : int
        ``S``.
    fill : int
        Value of the padding.

    Returns
    -------
    (S, S) or (S, S, 3) uint8

    Examples
    --------
    >>> place_on_canvas(np.array([[1, 2]], np.uint8), 2, fill=255).tolist()
    [[1, 2], [255, 255]]
    """
    height, width = picture.shape[:2]
    if height > canvas or width > canvas:
        raise ValueError(
            f"`picture` must fit the canvas of {canvas} pixels, got {height} x {width}: scale it first"
        )
    placed = np.full((canvas, canvas, *picture.shape[2:]), fill, np.uint8)
    placed[:height, :width] = picture
    return placed
