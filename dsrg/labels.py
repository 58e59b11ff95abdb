"""The vocabulary of label maps: background, "unlabelled", present classes, colours."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BACKGROUND = 0
IGNORE_INDEX = 255
MAX_FOREGROUND_CLASSES = 254
# Unicode's categories of control codes, halves of pairs, and separators of lines and paragraphs.
_UNSEEN = ("Cc", "Cs", "Zl", "Zp")


def list_present(image_labels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """List the class ids that may occur in one image.

    Parameters
    ----------
    image_labels : (K,) bool
        Which foreground classes the image holds.

    Returns
    -------
    (P,) int64
        Sorted class ids, background (0) always first; foreground class ``k`` has id ``k + 1``.

    Examples
    --------
    >>> list_present(np.array([False, True, True]))
    array([0, 2, 3])
    """
    return np.concatenate([[BACKGROUND], np.flatnonzero(image_labels) + 1]).astype(np.int64)


def expand_label_map(label_map: NDArray[np.uint8], num_classes: int) -> NDArray[np.bool_]:
    """Expand a label map into one plane per class; unlabelled pixels are False everywhere.

    Parameters
    ----------
    label_map : (h, w) uint8
        Class ids below `num_classes`, or 255 for unlabelled.
    num_classes : int
        ``C``, background included.

    Returns
    -------
    (C, h, w) bool

    Examples
    --------
    >>> expand_label_map(np.array([[0, 1, 255]], np.uint8), 2).astype(int).tolist()
    [[[1, 0, 0]], [[0, 1, 0]]]
    """
    ids = np.arange(num_classes, dtype=np.uint8)[:, None, None]
    return np.asarray(label_map[None] == ids)


def collapse_planes(planes: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Collapse planes into a label map; the highest class wins where several are set.

    Parameters
    ----------
    planes : (C, h, w) bool

    Returns
    -------
    (h, w) uint8
        255 where no plane is set.

    Examples
    --------
    >>> collapse_planes(np.array([[[True, False]], [[True, False]]])).tolist()
    [[1, 255]]
    """
    num_classes = planes.shape[0]
    highest = num_classes - 1 - np.argmax(planes[::-1], axis=0)
    return np.where(planes.any(axis=0), highest, IGNORE_INDEX).astype(np.uint8)


def build_palette() -> NDArray[np.uint8]:
    """Build PASCAL VOC's colour for every class id.

    Returns
    -------
    (256, 3) uint8
        Row 255 is VOC's cream for "ignored".

    Notes
    -----
    The bits of the class id are spread over the high bits of red, green and blue, as in the
    VOC devkit's ``VOClabelcolormap.m``.
    """
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def check_class_names(names: Sequence[str]) -> None:
    """Refuse class lists that no label map can hold.

    Raises
    ------
    ValueError
        No class, more than 254, an empty name, ``background``, one with characters that are none to see
        (line breaks, control codes), a name twice, or two that differ only in case or in how accents are
        written.
    """
    if not names:
        raise ValueError("no class is named: give at least one foreground class")
    if len(names) > MAX_FOREGROUND_CLASSES:
        raise ValueError(
            f"{len(names)} classes named, but a uint8 label map holds at most "
            f"{MAX_FOREGROUND_CLASSES} beside background: split the data set"
        )
    empty = [i for i, name in enumerate(names) if not name.strip()]
    if empty:
        raise ValueError(f"class names at positions {empty} are empty: name every class")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"class names given twice: {', '.join(twice)}: name each class once")
    strange = [name for name in names if any(unicodedata.category(char) in _UNSEEN for char in name)]
    if strange:
        raise ValueError(
            f"class names hold control characters: {', '.join(map(ascii, strange))}: take them out"
        )
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[unicodedata.normalize("NFC", name.strip().casefold())].append(name)
    if "background" in alike:
        raise ValueError(f"a class is called `{alike['background'][0]}`, as what is no class: rename it")
    pairs = [" and ".join(f"`{name}`" for name in group) for group in alike.values() if len(group) > 1]
    if pairs:
        raise ValueError(
            f"class names differ only in case or accents' spelling: {', '.join(pairs)}: make them equal"
        )
