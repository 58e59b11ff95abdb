"""Decoding of every common kind of picture, and refusing of what is none."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dsrg.image import (
    DecodeError,
    fit_size,
    place_on_canvas,
    read_image,
    read_mask,
    read_scaled_image,
    scale_image,
    scale_label_map,
)

RED, BLUE = (200, 30, 40), (20, 40, 210)


def draw_halves() -> NDArray[np.uint8]:
    """Draw 16 rows x 24 columns: red on the left, blue on the right."""
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:, :12], picture[:, 12:] = RED, BLUE
    return picture


def near(colour: NDArray[np.uint8], wanted: tuple[int, ...], tolerance: int = 12) -> bool:
    return bool(np.abs(colour.astype(int) - wanted).max() <= tolerance)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.webp", "a.ppm"])
def test_reads_colours_in_every_format(tmp_path: Path, name: str) -> None:
    lossy: dict[str, Any] = {"quality": 95, "subsampling": 0} if name.endswith("jpg") else {}
    Image.fromarray(draw_halves()).save(tmp_path / name, **lossy)
    image = read_image(tmp_path / name)
    assert image.shape == (16, 24, 3)
    assert image.dtype == np.uint8
    assert near(image[8, 4], RED, 30)
    assert near(image[8, 20], BLUE, 30)


@pytest.mark.parametrize(
    ("orientation", "shape", "where_red"),
    [
        (1, (16, 24), (8, 2)),
        (2, (16, 24), (8, 21)),
        (3, (16, 24), (8, 21)),
        (4, (16, 24), (8, 2)),
        (5, (24, 16), (2, 8)),
        (6, (24, 16), (2, 8)),
        (7, (24, 16), (21, 8)),
        (8, (24, 16), (21, 8)),
    ],
)
def test_exif_orientation_is_applied(
    tmp_path: Path, orientation: int, shape: tuple[int, int], where_red: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(draw_halves()).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape[:2] == shape
    assert near(image[where_red], RED, 20)


def test_greyscale_becomes_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 77, np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[77, 77, 77]] * 6] * 4


def test_black_and_white_becomes_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[255] * 3, [0] * 3]


def test_16_bit_greyscale_is_scaled_over_its_full_range(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_rgb_is_scaled_over_its_full_range(tmp_path: Path) -> None:
    # PIL writes no 16-bit RGB: one pixel (0xFFFF, 0x8000, 0x0000), by hand.
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixel = b"\x00" + struct.pack(">3H", 0xFFFF, 0x8000, 0)
    header = struct.pack(">2I5B", 1, 1, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(pixel))
        + chunk(b"IEND", b"")
    )
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 128, 0]]]


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image[0, 0].tolist() == [10, 20, 30]
    assert image[0, 1].tolist() == [255, 255, 255]
    assert near(image[0, 2], (127, 127, 127), 1)


def test_grey_with_alpha_lies_on_white(tmp_path: Path) -> None:
    Image.merge("LA", [Image.new("L", (1, 1), 9), Image.new("L", (1, 1), 0)]).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 255, 255]]]


def test_palette_and_its_transparent_colour(tmp_path: Path) -> None:
    palette = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    palette.putpalette([1, 2, 3, 40, 50, 60, 7, 8, 9])
    palette.save(tmp_path / "a.png", transparency=2)
    assert read_image(tmp_path / "a.png")[0].tolist() == [[1, 2, 3], [40, 50, 60], [255, 255, 255]]


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_is_not_inverted(tmp_path: Path, name: str) -> None:
    """Photoshop, and PIL, store CMYK in JPEG inverted; TIFF is plain."""
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / name)
    assert near(read_image(tmp_path / name)[4, 4], (255, 0, 0))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image = read_image(tmp_path / "a.gif")
    assert image.shape == (4, 5, 3)
    assert near(image[0, 0], RED)


def test_first_picture_of_a_phone_s_double_jpeg(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (16, 8), colour) for colour in (RED, BLUE)]
    pictures[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=pictures[1:])
    assert near(read_image(tmp_path / "a.jpg")[4, 4], RED)


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    Image.fromarray(draw_halves()).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(read_image(tmp_path / "a.jpg"), draw_halves())


def test_broken_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "postscript.jpg", format="EPS")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    Image.fromarray(draw_halves()).save(tmp_path / "a.png")
    for name in ("a.jpg", "a.png"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"half_{name}").write_bytes(data[: len(data) // 2])
    reasons = {
        "empty.jpg": "empty .0 bytes.",
        "text.jpg": "no picture",
        "postscript.jpg": "no picture",
        "half_a.jpg": "cannot be decoded .*truncated",
        "half_a.png": "cannot be decoded",
        "gone.jpg": "not found",
    }
    for name, reason in reasons.items():
        with pytest.raises(DecodeError, match=reason):
            read_image(tmp_path / name)


def test_every_cut_and_flipped_byte_is_read_or_refused(tmp_path: Path) -> None:
    """Whatever PIL's decoders raise on broken bytes, it arrives as a DecodeError."""
    rng = np.random.default_rng(0)
    path = tmp_path / "broken"
    for suffix in ("png", "gif", "tiff", "webp", "jpeg", "bmp", "ppm"):
        Image.fromarray(draw_halves()).save(path, format=suffix)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(25):
            broken = data[: rng.integers(1, len(data) + 1)].copy()
            broken[rng.integers(0, len(broken), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(broken.tobytes())
            with contextlib.suppress(DecodeError):
                assert read_image(path).shape[2] == 3


def test_decompression_bombs_are_refused_before_decoding(tmp_path: Path) -> None:
    Image.new("1", (4000, 4000)).save(tmp_path / "bomb.png")
    with pytest.raises(DecodeError, match=r"is 4000 x 4000 pixels, more than the 1000000 allowed: scale"):
        read_image(tmp_path / "bomb.png", max_pixels=1_000_000)
    assert read_image(tmp_path / "bomb.png", max_pixels=16_000_000).shape == (4000, 4000, 3)


def test_of_a_large_jpeg_what_is_decoded_counts(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 900), RED).save(tmp_path / "a.jpg")
    Image.new("RGB", (1200, 900), RED).save(tmp_path / "a.png")
    picture, original = read_scaled_image(tmp_path / "a.jpg", 32, max_pixels=1_000_000)
    assert (picture.shape, original) == ((24, 32, 3), (900, 1200))
    refused = [("a.png", 1_000_000), ("a.jpg", 200_000)]  # not decoded small; more than four times as many
    for name, max_pixels in refused:
        with pytest.raises(DecodeError, match=rf"is 900 x 1200 pixels, more than the {max_pixels} allowed"):
            read_scaled_image(tmp_path / name, 32, max_pixels=max_pixels)


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DecodeError, match=r"floating-point"):
        read_image(tmp_path / "a.tif")


def test_masks_hold_ids_not_colours(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [255, 7, 0]], np.uint8)
    grey = Image.fromarray(ids)
    grey.save(tmp_path / "grey.png")
    palette = Image.frombytes("P", (3, 2), ids.tobytes())
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "palette.png")
    Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("grey.png", "palette.png", "deep.png"):
        assert np.array_equal(read_mask(tmp_path / name), ids), name


def test_colour_masks_are_refused(tmp_path: Path) -> None:
    Image.fromarray(draw_halves()).save(tmp_path / "a.png")
    with pytest.raises(DecodeError, match=r"is a RGB picture: a mask is an 8-bit palette or greyscale PNG"):
        read_mask(tmp_path / "a.png")
    Image.fromarray(np.array([[300]], np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(DecodeError, match=r"holds 300: mask values go from 0 to 255"):
        read_mask(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((500, 1000), (160, 320)), ((320, 320), (320, 320)), ((9, 5), (9, 5)), ((9999, 3), (320, 1))],
)
def test_pictures_are_scaled_down_never_up(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fit_size(size, 320) == fitted


def test_scaling_down_averages_pictures_and_picks_ids() -> None:
    checks = np.indices((64, 96)).sum(axis=0) % 2
    image = np.repeat((checks * 255).astype(np.uint8)[..., None], 3, axis=2)
    scaled = scale_image(image, (16, 24))
    assert scaled.shape == (16, 24, 3)
    assert np.abs(scaled[2:-2, 2:-2].astype(int) - 127).max() < 8
    label_map = np.where(checks, 7, 255).astype(np.uint8)
    assert set(np.unique(scale_label_map(label_map, (16, 24)))) <= {7, 255}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(300, 500), (500, 300), (100, 60)])
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(
    tmp_path: Path, shape: tuple[int, int], orientation: int
) -> None:
    """Of 500 pixels for a canvas of 64 libjpeg decodes half; 100 are too few for that, and are equal."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (10, 10, 3), np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    coarse.resize(shape[::-1], Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95, exif=exif)
    whole = read_image(tmp_path / "a.jpg")
    picture, original = read_scaled_image(tmp_path / "a.jpg", 64)
    plain = scale_image(whole, fit_size(whole.shape, 64))
    assert original == whole.shape[:2]
    assert picture.shape == plain.shape
    difference = np.abs(picture.astype(int) - plain)
    assert difference.mean() < 1
    assert (difference.max() == 0) == (max(shape) < 192)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.webp", "a.gif"])
def test_reading_for_a_canvas_equals_reading_and_scaling(tmp_path: Path, name: str) -> None:
    picture = np.random.default_rng(4).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / name)
    for canvas in (32, 64):
        scaled, original = read_scaled_image(tmp_path / name, canvas)
        whole = read_image(tmp_path / name)
        assert original == (40, 60)
        np.testing.assert_array_equal(scaled, scale_image(whole, fit_size(whole.shape, canvas)))


def test_scaling_moves_picture_and_label_map_alike() -> None:
    gt_label = np.zeros((90, 120), np.uint8)
    gt_label[30:60, 40:100] = 3
    image = np.repeat((gt_label * 80)[..., None], 3, axis=2)
    inside = scale_image(image, (30, 40))[..., 0] > 120
    assert np.array_equal(inside, scale_label_map(gt_label, (30, 40)) == 3)


def test_a_picture_lies_top_left_on_its_canvas() -> None:
    placed = place_on_canvas(draw_halves(), 32, fill=0)
    assert np.array_equal(placed[:16, :24], draw_halves())
    assert not placed[16:].any()
    assert not placed[:, 24:].any()
    with pytest.raises(ValueError, match=r"must fit the canvas of 8 pixels, got 16 x 24"):
        place_on_canvas(draw_halves(), 8, fill=0)
