"""Which colour is which class: legends, captions of overlays, sheets of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dsrg.labels import build_palette

Rgb = NDArray[np.uint8]
Entry = tuple[str, int]

_PAPER, _INK, _LINE = (255, 255, 255), (30, 30, 30), (120, 120, 120)
_GAP = 8


def paint_palette(label_map: NDArray[np.uint8]) -> Image.Image:
    """Make a palette picture, in PASCAL VOC's colours, of a label map (H, W): its pixels stay class ids."""
    picture = Image.fromarray(label_map)
    picture.putpalette(build_palette().ravel().tolist())  # makes a palette picture of a grey one
    return picture


def draw_legend(entries: Sequence[Entry], *, width: int, size: int = 14) -> Rgb:
    """Draw a legend: a swatch and a text for each entry, in as many lines as needed.

    Parameters
    ----------
    entries : sequence of (str, int)
        Text, and class id whose colour is shown.
    width : int
        Pixels.
    size : int
        Of the letters, pixels.

    Returns
    -------
    (h, width, 3) uint8
        Black on white. What does not fit a line is cut off at its end.
    """
    font = ImageFont.load_default(size)
    line = size + _GAP
    placed: list[tuple[str, int, int, int]] = []
    left, row = _GAP, 0
    for text, class_id in entries:
        needed = size + 6 + round(font.getlength(text)) + 2 * _GAP
        if left > _GAP and left + needed > width:
            left, row = _GAP, row + 1
        placed.append((text, class_id, left, row))
        left += needed
    sheet = Image.new("RGB", (width, _GAP + line * (row + 1)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    palette = build_palette()
    for text, class_id, left, row in placed:
        top = _GAP + line * row
        colour = tuple(palette[class_id].tolist())
        pen.rectangle((left, top, left + size, top + size), fill=colour, outline=_LINE)
        pen.text((left + size + 6, top + size / 2), text, fill=_INK, font=font, anchor="lm")
    return np.asarray(sheet)


def list_found(label_map: NDArray[np.uint8], classes: Sequence[str]) -> list[Entry]:
    """List the classes of a label map with their shares, largest first: ``("cat 12.0%", 1)``.

    Parameters
    ----------
    label_map : (H, W) uint8
        Class ids.
    classes : sequence of C str
        By class id.
    """
    counts = np.bincount(label_map.ravel(), minlength=len(classes))
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    return [(f"{classes[k]} {100 * counts[k] / label_map.size:.1f}%", k) for k in order]


def caption_picture(picture: Rgb, entries: Sequence[Entry]) -> Rgb:
    """Put a legend below a picture.

    Parameters
    ----------
    picture : (H, W, 3) uint8
    entries : sequence of (str, int)

    Returns
    -------
    (H + h, W, 3) uint8
        Its first ``H`` rows are the picture.
    """
    size = 12 if picture.shape[1] < 640 else 18
    return np.concatenate([picture, draw_legend(entries, width=picture.shape[1], size=size)])


def draw_sheet(tiles: Sequence[tuple[str, Rgb]], entries: Sequence[Entry], *, across: int, side: int) -> Rgb:
    """Draw many small pictures on one sheet, a name over each and one legend below.

    Parameters
    ----------
    tiles : sequence of (str, (h, w, 3) uint8)
        Names, and pictures no side of which is longer than `side`.
    entries : sequence of (str, int)
    across, side : int
        Pictures in a line, and their room in pixels.

    Returns
    -------
    (H, W, 3) uint8
    """
    font = ImageFont.load_default(12)
    head = 20
    across = min(across, len(tiles))
    width = max(_GAP + across * (side + _GAP), 480)
    lines = [tiles[start : start + across] for start in range(0, len(tiles), across)]
    heights = [head + max(tile.shape[0] for _, tile in line) + _GAP for line in lines]
    sheet = Image.new("RGB", (width, _GAP + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        top = _GAP + sum(heights[:number])
        for column, (name, tile) in enumerate(line):
            left = _GAP + column * (side + _GAP)
            pen.text((left, top), _shorten(name, font, side), fill=_INK, font=font)
            sheet.paste(Image.fromarray(tile), (left, top + head))
    return np.concatenate([np.asarray(sheet), draw_legend(entries, width=width)])


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Take letters off the front until a text fits: the end of a path says more."""
    shown = text
    while len(shown) > 1 and font.getlength(shown) > width:
        shown = "…" + shown.removeprefix("…")[1:]
    return shown
