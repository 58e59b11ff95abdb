"""Regions of a picture, as COCO's annotations give them: polygons or run lengths, drawn to one mask."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.labels import BACKGROUND, IGNORE_INDEX

_MIN_NUMBERS = 6
_FARTHEST = 100_000  # pycocotools walks along every edge: one wild number would fill the memory


@dataclass(frozen=True, slots=True)
class Outline:
    """What one annotation covers, packed so that hundreds of thousands fit into memory.

    Attributes
    ----------
    polygons : tuple of bytes
        float64 numbers x, y, x, y, ... in pixels; the region is their union.
    counts : bytes
        COCO's compressed run lengths, down the columns; empty where there are polygons.
    size : (height, width)
        Of the run lengths; (0, 0) for polygons, which fit any size.
    """

    polygons: tuple[bytes, ...] = ()
    counts: bytes = b""
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Region:
    """One annotation of a picture: its class id, or 255 for a crowd, and what it covers."""

    class_id: int
    outline: Outline


@dataclass(frozen=True, slots=True)
class Drawing:
    """All regions of one picture, whose entered size is (height, width): a mask that is not drawn yet."""

    size: tuple[int, int]
    regions: tuple[Region, ...]


def pack_outline(segmentation: Any) -> Outline | None:
    """Pack the ``segmentation`` of an annotation.

    Parameters
    ----------
    segmentation : list of list of float, or dict
        Polygons; or run lengths ``{"size": [height, width], "counts": ...}``, compressed (str) or not
        (list of int).

    Returns
    -------
    Outline or None
        None where nothing is given. Polygons of fewer than three points cover nothing and are left out.

    Raises
    ------
    ValueError
        Of another form; the message says which rule is broken.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _pack_run_lengths(segmentation)
    if not isinstance(segmentation, list) or not all(isinstance(part, list) for part in segmentation):
        raise ValueError("`segmentation` must be a list of polygons, or run lengths with size and counts")
    polygons = []
    for part in segmentation:
        try:
            numbers = np.array(part, np.float64)
        except (TypeError, ValueError):
            raise ValueError("a polygon must be a flat list of numbers x, y, x, y, ...") from None
        if numbers.ndim != 1 or len(numbers) % 2 or not np.isfinite(numbers).all():
            raise ValueError(f"a polygon must hold pairs x, y, got {numbers.size} numbers")
        if np.abs(numbers).max(initial=0) > _FARTHEST:
            raise ValueError(f"a polygon has a corner farther out than {_FARTHEST} pixels")
        if len(numbers) >= _MIN_NUMBERS:
            polygons.append(numbers.tobytes())
    return Outline(polygons=tuple(polygons))


def _pack_run_lengths(segmentation: dict[str, Any]) -> Outline:
    from pycocotools import mask as coco

    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
        raise ValueError(f"`size` of run lengths must be [height, width], got {size!r}")
    height, width = size
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            raise ValueError("`counts` of run lengths must be whole numbers")
        if sum(counts) != height * width:
            raise ValueError(f"run lengths add up to {sum(counts)} pixels, not to {height} x {width}")
        counts = coco.frPyObjects({"size": size, "counts": counts}, height, width)["counts"]
    elif isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
        _check_compressed(counts, height * width)
    else:
        raise ValueError("`counts` of run lengths must be a list of numbers or a string")
    return Outline(counts=counts, size=(height, width))


def _check_compressed(counts: bytes, pixels: int) -> None:
    """Refuse a string whose runs do not fill the picture: decoding it would write beyond its end.

    Notes
    -----
    A run is written in groups of 5 bits from the lowest, each as the character 48 + group, + 32 where
    more follow; from the third run on, it is the difference to the run before the last
    (``rleFrString`` of COCO's ``maskApi.c``).
    """
    runs: list[int] = []
    at = 0
    while at < len(counts):
        value, shift, more = 0, 0, True
        while more:
            if at >= len(counts) or not 48 <= counts[at] < 112:
                raise ValueError("`counts` of run lengths is no string that COCO's tools write")
            group = counts[at] - 48
            value |= (group & 31) << shift
            more, shift, at = bool(group & 32), shift + 5, at + 1
            if not more and group & 16:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    if any(run < 0 for run in runs) or sum(runs) != pixels:
        raise ValueError(f"run lengths add up to {sum(runs)} pixels, not to the {pixels} of `size`")


def draw_regions(regions: Sequence[Region], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw the regions of a picture into one mask, the smaller over the larger, crowds below all.

    Where objects overlap, the one of fewer pixels is on top: mostly it is the one in front, and never
    does it vanish. Of two equally large ones the later is on top. Crowd regions become 255 (ignored)
    where no object lies on them; everything else is background.

    Parameters
    ----------
    regions : sequence of Region
    size : (height, width)
        Of the picture.

    Returns
    -------
    (H, W) uint8

    Raises
    ------
    ValueError
        Run lengths of another size.
    """
    mask = np.full(size, BACKGROUND, np.uint8)
    planes = [(region.class_id, _draw_outline(region.outline, size)) for region in regions]
    order = sorted(
        range(len(planes)),
        key=lambda number: (planes[number][0] != IGNORE_INDEX, -int(planes[number][1].sum()), number),
    )
    for number in order:
        class_id, plane = planes[number]
        mask[plane] = class_id
    return mask


def _draw_outline(outline: Outline, size: tuple[int, int]) -> NDArray[np.bool_]:
    from pycocotools import mask as coco

    height, width = size
    if outline.polygons:
        polygons = [np.frombuffer(part, np.float64).tolist() for part in outline.polygons]
        runs = coco.merge(coco.frPyObjects(polygons, height, width))
    elif outline.counts:
        if outline.size != size:
            raise ValueError(
                f"run lengths are for {outline.size[0]} x {outline.size[1]} pixels, the picture is entered "
                f"as {height} x {width} (height x width): make them equal"
            )
        runs = {"size": [height, width], "counts": outline.counts}
    else:
        return np.zeros(size, bool)
    with warnings.catch_warnings():
        # pycocotools hands numpy an array class of its own in the way of numpy 1.
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.asarray(coco.decode(runs), bool)
