"""Tiles: pictures of the report, each step's in a file of its own, and ``pictures.json``, which lists them.

A page lays tiles out by the width of the screen and says in words what they show, which a sheet drawn
in one piece cannot. Numbers of single pictures are here, in a cached output, and in no metrics file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.labels import BACKGROUND, IGNORE_INDEX
from dsrg.panels import Rgb, overlay, pick_swatch, write_webp

FOLDER = "tiles"
INDEX = "pictures.json"
MAX_SIDE = 320
_UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Column:
    """One step's picture: its title, what is shown, and the label map behind it, if there is one.

    Attributes
    ----------
    title : str
    shown : (H, W, 3) uint8
    label_map : (H, W) uint8 or None
    """

    title: str
    shown: Rgb
    label_map: NDArray[np.uint8] | None = None

    @classmethod
    def lay(cls, title: str, picture: Rgb, label_map: NDArray[np.uint8]) -> Column:
        """Lay a label map over its picture."""
        return cls(title, overlay(picture, label_map), label_map)


def write_tiles(
    folder: Path, key: str, columns: Sequence[Column], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Write one picture's tiles and describe them.

    Parameters
    ----------
    folder : Path
        Of the panels; tiles go to ``tiles/`` below it.
    key : str
        Begins the names of the files.
    columns : sequence of Column
    classes : sequence of K str
        Foreground classes.

    Returns
    -------
    list of dict
        For each tile ``title``, ``file`` (relative to `folder`), ``height``, ``width``, and ``held``: names
        and shares of what its label map holds, the largest share first; None where there is no label map.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    tiles = []
    for number, column in enumerate(columns):
        file = f"{key}-{number}.webp"
        height, width = write_webp(place / file, column.shown, max_side=MAX_SIDE)
        tiles.append(
            {
                "title": column.title,
                "file": f"{FOLDER}/{file}",
                "height": height,
                "width": width,
                "held": None if column.label_map is None else list_shares(column.label_map, classes),
            }
        )
    return tiles


def list_shares(label_map: NDArray[np.uint8], classes: Sequence[str]) -> list[tuple[str, float]]:
    """List what a label map holds, by name, with its share of the pixels; the largest share first."""
    names = name_labels(classes)
    labels, counts = np.unique(label_map, return_counts=True)
    shares = [
        (names[int(label)], float(count) / label_map.size)
        for label, count in zip(labels, counts, strict=True)
    ]
    return sorted(shares, key=lambda share: -share[1])


def list_colours(classes: Sequence[str]) -> dict[str, str]:
    """List the colour of every name in tiles, as CSS writes it."""
    return {
        name: "#{:02x}{:02x}{:02x}".format(*pick_swatch(label))
        for label, name in name_labels(classes).items()
    }


def name_labels(classes: Sequence[str]) -> Mapping[int, str]:
    """Name the values of a label map: background, classes, unlabelled."""
    return {
        BACKGROUND: "background",
        **{k + 1: name for k, name in enumerate(classes)},
        IGNORE_INDEX: _UNLABELLED,
    }
