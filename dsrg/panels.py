"""Panels: what each step made of a picture, side by side, as RGB arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dsrg.labels import BACKGROUND, IGNORE_INDEX, build_palette

Rgb = NDArray[np.uint8]

TILE = 256
_GAP = 10
_PAPER = (255, 255, 255)
_INK = (30, 30, 30)
_FAINT = (120, 120, 120)
_HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32)
_SWATCH_BACKGROUND = (60, 60, 60)
_SWATCH_UNLABELLED = (225, 225, 225)


def choose_rows(
    rows: Sequence[int], ids: NDArray[np.str_], image_labels: NDArray[np.bool_], *, count: int
) -> list[int]:
    """Choose pictures to show, spread over the classes; the same whenever the names are the same.

    Pictures are ordered by a hash of their names. The classes take turns, each taking its first
    picture not yet taken, until `count` are chosen. No pixel and no result has a say.

    Parameters
    ----------
    rows : sequence of int
        Candidates.
    ids : (N,) str
    image_labels : (N, K) bool
    count : int

    Returns
    -------
    list of int
        At most `count` rows, ascending.
    """
    order = sorted(
        (int(row) for row in rows), key=lambda row: hashlib.sha256(str(ids[row]).encode()).digest()
    )
    queues = [[row for row in order if image_labels[row, k]] for k in range(image_labels.shape[1])]
    queues.append([row for row in order if not image_labels[row].any()])
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            while queue and queue[0] in chosen:
                queue.pop(0)
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return sorted(chosen)


def colour_label_map(label_map: NDArray[np.uint8]) -> Rgb:
    """Colour a label map with PASCAL VOC's palette.

    Parameters
    ----------
    label_map : (H, W) uint8

    Returns
    -------
    (H, W, 3) uint8
        Background black, unlabelled cream.
    """
    coloured: Rgb = build_palette()[label_map]
    return coloured


def overlay(image: Rgb, label_map: NDArray[np.uint8], *, opacity: float = 0.6) -> Rgb:
    """Lay a label map over its picture: classes tinted, background dark, unlabelled faded.

    Parameters
    ----------
    image : (H, W, 3) uint8
        Not modified.
    label_map : (H, W) uint8
        Not modified.
    opacity : float
        Of the class colours, in [0, 1].

    Returns
    -------
    (H, W, 3) uint8
        A light line runs along every change of label.
    """
    grey = _grey(image)
    tinted = (1 - opacity) * grey + opacity * colour_label_map(label_map)
    background = (label_map == BACKGROUND)[..., None]
    unlabelled = (label_map == IGNORE_INDEX)[..., None]
    blended = np.where(background, 0.35 * grey, np.where(unlabelled, 0.25 * grey + 0.75 * 240, tinted))
    blended[_find_edges(label_map)] = 255
    return np.clip(blended, 0, 255).astype(np.uint8)


def overlay_cam(image: Rgb, cams: NDArray[np.float32]) -> Rgb:
    """Lay the largest CAM over its picture as heat: black 0, yellow 1.

    Parameters
    ----------
    image : (H, W, 3) uint8
        Not modified.
    cams : (F, H, W) float32
        In [0, 1], at the picture's size; none is 0 everywhere.

    Returns
    -------
    (H, W, 3) uint8
    """
    largest = np.clip(cams.max(axis=0), 0, 1) if len(cams) else np.zeros(image.shape[:2], np.float32)
    stops = np.linspace(0, 1, len(_HEAT))
    heat = np.stack([np.interp(largest, stops, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    return np.clip(0.35 * _grey(image) + 0.7 * heat, 0, 255).astype(np.uint8)


def draw_panel(
    columns: Sequence[tuple[str, Rgb]],
    *,
    caption: str = "",
    legend: Sequence[tuple[str, int]] = (),
    per_line: int | None = None,
) -> Rgb:
    """Draw pictures side by side, with a title over each, a caption and a legend below.

    Parameters
    ----------
    columns : sequence of (str, (H, W, 3) uint8)
        Title and picture; all of one size.
    caption : str
    legend : sequence of (str, int)
        Class name and id. Background and unlabelled are added to it.
    per_line : int, optional
        How many stand side by side; further ones below. All in one line, if left out.

    Returns
    -------
    (height, width, 3) uint8
    """
    if not columns:
        raise ValueError("`columns` must hold at least one picture, got none.")
    tiles = [_fit_tile(picture) for _, picture in columns]
    height, width = max(tile.height for tile in tiles), TILE  # so that columns of a sheet stand in line
    across = min(per_line or len(tiles), len(tiles))
    total = _GAP + (width + _GAP) * across
    keys = _lay_out_legend(legend, total)
    head, foot = 24, 26 + 22 * (1 + max((line for _, _, line, _ in keys), default=-1))
    end = (head + height) * -(-len(tiles) // across)
    sheet = Image.new("RGB", (total, end + foot), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, ((title, _), tile) in enumerate(zip(columns, tiles, strict=True)):
        left, top = _GAP + number % across * (width + _GAP), number // across * (head + height)
        pen.text((left, top + 4), title, fill=_INK, font=_load_font(13))
        sheet.paste(tile, (left, top + head))
    pen.text((_GAP, end + 5), caption, fill=_FAINT, font=_load_font(11))
    for name, colour, line, left in keys:
        top = end + 26 + 22 * line
        pen.rectangle((left, top, left + 14, top + 14), fill=colour, outline=_FAINT)
        pen.text((left + 20, top), name, fill=_INK, font=_load_font(11))
    return np.asarray(sheet)


def stack_panels(panels: Sequence[Rgb]) -> Rgb:
    """Stack panels into one sheet, filling narrower ones with white at the right.

    Parameters
    ----------
    panels : sequence of (h, w, 3) uint8

    Returns
    -------
    (height, width, 3) uint8
    """
    width = max(panel.shape[1] for panel in panels)
    padded = [
        np.pad(panel, ((0, 0), (0, width - panel.shape[1]), (0, 0)), constant_values=255) for panel in panels
    ]
    return np.concatenate(padded)


def pick_swatch(label: int) -> tuple[int, int, int]:
    """Pick the colour that a class id, or 255, has in an `overlay` of a medium grey picture.

    Returns
    -------
    tuple of 3 int
        Red, green, blue.
    """
    if label == BACKGROUND:
        return _SWATCH_BACKGROUND
    if label == IGNORE_INDEX:
        return _SWATCH_UNLABELLED
    red, green, blue = (round(0.4 * 120 + 0.6 * int(value)) for value in build_palette()[label])
    return red, green, blue


def write_webp(path: Path, picture: Rgb, *, max_side: int, quality: int = 80) -> tuple[int, int]:
    """Write a picture as WebP, scaled down to `max_side` pixels; equal pictures give equal bytes.

    Returns
    -------
    tuple of 2 int
        Height and width as written.
    """
    image = Image.fromarray(picture)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    image.save(path, format="WEBP", quality=quality, method=4)
    return image.height, image.width


def write_png(path: Path, picture: Rgb) -> None:
    """Write a picture as PNG; equal pictures give equal bytes."""
    Image.fromarray(picture).save(path, format="PNG", optimize=False, compress_level=6)


def _grey(image: Rgb) -> NDArray[np.float32]:
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(grey[..., None], 3, axis=-1)


def _find_edges(label_map: NDArray[np.uint8]) -> NDArray[np.bool_]:
    edges = np.zeros(label_map.shape, bool)
    edges[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
    edges[1:] |= label_map[1:] != label_map[:-1]
    return edges


def _fit_tile(picture: Rgb) -> Image.Image:
    tile = Image.fromarray(picture)
    factor = TILE / max(tile.size)
    size = (max(1, round(tile.width * factor)), max(1, round(tile.height * factor)))
    return tile if size == tile.size else tile.resize(size, Image.Resampling.LANCZOS)


def _lay_out_legend(
    legend: Sequence[tuple[str, int]], width: int
) -> list[tuple[str, tuple[int, int, int], int, int]]:
    """Place legend entries in lines: name, colour, line number, left edge."""
    if not legend:
        return []
    entries = [("background", pick_swatch(BACKGROUND)), ("unlabelled", pick_swatch(IGNORE_INDEX))]
    entries += [(name, pick_swatch(class_id)) for name, class_id in legend]
    placed, line, left = [], 0, _GAP
    for name, colour in entries:
        needed = 20 + round(_load_font(11).getlength(name)) + 18
        if left > _GAP and left + needed > width:
            line, left = line + 1, _GAP
        placed.append((name, colour, line, left))
        left += needed
    return placed


@lru_cache(maxsize=4)
def _load_font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
