"""Label maps for other programs: at the original size, unlabelled pixels settled, regions described."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dsrg.labels import BACKGROUND, IGNORE_INDEX
from dsrg.polygons import draw_polygon, flatten_ring, normalise_ring
from dsrg.rle import encode_mask

Unlabelled = Literal["keep", "background", "nearest"]
_DIGITS = 2
_YOLO_DIGITS = 6


def settle_unlabelled(label_map: NDArray[np.uint8], *, rule: Unlabelled) -> NDArray[np.uint8]:
    """Decide what becomes of unlabelled pixels.

    Parameters
    ----------
    label_map : (H, W) uint8
        Class ids, or 255 for unlabelled. Not modified.
    rule : {'keep', 'background', 'nearest'}
        Leave them 255, make them background, or give each the class of the nearest labelled pixel
        (one of them where several are equally near).

    Returns
    -------
    (H, W) uint8
        `label_map` itself where nothing is to be done. By rule ``nearest`` a map without any labelled
        pixel stays unlabelled: there is nothing to take.

    Examples
    --------
    >>> settle_unlabelled(np.array([[1, 255, 255, 0]], np.uint8), rule="nearest").tolist()
    [[1, 1, 0, 0]]
    """
    unlabelled = label_map == IGNORE_INDEX
    if rule == "keep" or not unlabelled.any():
        return label_map
    if rule == "background":
        return np.where(unlabelled, np.uint8(BACKGROUND), label_map)
    if unlabelled.all():
        return label_map
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(unlabelled, return_distances=False, return_indices=True)
    nearest: NDArray[np.uint8] = label_map[rows, columns]
    return nearest


def restore_label_map(
    label_map: NDArray[np.uint8], original_size: Sequence[int], *, unlabelled: Unlabelled
) -> NDArray[np.uint8]:
    """Bring a label map to the size of the original picture, by taking the nearest pixel.

    Each pixel gets the label of the stored pixel that its centre lies in. No id is invented, and what
    was not scaled down comes back as it is.

    Parameters
    ----------
    label_map : (h, w) uint8
        As stored, without padding. Not modified.
    original_size : (height, width)
        Of the picture before it was scaled down to the canvas.
    unlabelled : {'keep', 'background', 'nearest'}
        See :func:`settle_unlabelled`.

    Returns
    -------
    (height, width) uint8
    """
    settled = settle_unlabelled(label_map, rule=unlabelled)
    if settled.shape == tuple(original_size):
        return settled
    rows, columns = (
        _find_nearest(stored, int(wanted))
        for stored, wanted in zip(settled.shape, original_size, strict=True)
    )
    return settled[rows].take(columns, axis=1)


def _find_nearest(stored: int, wanted: int) -> NDArray[np.int64]:
    """Find, for each of `wanted` pixels, the one of `stored` that holds its centre; in exact integers."""
    return (2 * np.arange(wanted) + 1) * stored // (2 * wanted)


def list_class_ids(label_map: NDArray[np.uint8]) -> list[int]:
    """List the foreground classes of a label map, ascending."""
    counts = np.bincount(label_map.ravel(), minlength=IGNORE_INDEX + 1)
    return [int(c) for c in np.flatnonzero(counts[:IGNORE_INDEX]) if c != BACKGROUND]


def iterate_regions(
    label_map: NDArray[np.uint8], *, min_area: int = 0
) -> Iterator[tuple[int, tuple[int, int], NDArray[np.bool_]]]:
    """Iterate over connected foreground regions; pixels that touch at a corner are connected.

    Parameters
    ----------
    label_map : (H, W) uint8
        Not modified.
    min_area : int
        Smaller regions, in pixels, are passed over.

    Yields
    ------
    class_id : int
        Ascending.
    corner : (row, column)
        Of the region's box.
    region : (h, w) bool
        The region within its box.
    """
    from scipy.ndimage import find_objects, label

    for class_id in list_class_ids(label_map):
        numbers, _ = label(label_map == class_id, structure=np.ones((3, 3), int))
        for number, box in enumerate(find_objects(numbers), start=1):
            region: NDArray[np.bool_] = numbers[box] == number
            if region.sum() >= min_area:
                yield class_id, (int(box[0].start), int(box[1].start)), region


def describe_masks(label_map: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Describe each class of a label map as one COCO annotation with a run-length encoded mask.

    Parameters
    ----------
    label_map : (H, W) uint8
        Not modified.

    Returns
    -------
    list of dict
        Without ``id`` and ``image_id``; ``category_id`` is the class id.
    """
    found = []
    for class_id in list_class_ids(label_map):
        mask = label_map == class_id
        segmentation = {"size": list(mask.shape), "counts": encode_mask(mask)}
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        corner = (int(rows[0]), int(columns[0]))
        extent = (int(rows[-1]) - corner[0] + 1, int(columns[-1]) - corner[1] + 1)
        found.append(_describe(class_id, segmentation, int(mask.sum()), corner, extent))
    return found


def describe_polygons(
    label_map: NDArray[np.uint8], *, tolerance: float, min_area: int = 0
) -> list[dict[str, Any]]:
    """Describe each connected region of a label map as one COCO annotation with a polygon.

    Parameters
    ----------
    label_map : (H, W) uint8
        Not modified.
    tolerance, min_area
        See :func:`dsrg.polygons.draw_polygon` and :func:`iterate_regions`.

    Returns
    -------
    list of dict
        Without ``id`` and ``image_id``.
    """
    found = []
    for class_id, corner, region in iterate_regions(label_map, min_area=min_area):
        polygon = draw_polygon(region, tolerance=tolerance) + np.array(corner[::-1], float)
        segmentation = [flatten_ring(polygon, digits=_DIGITS)]
        found.append(_describe(class_id, segmentation, int(region.sum()), corner, region.shape))
    return found


def _describe(
    class_id: int, segmentation: Any, area: int, corner: Sequence[int], extent: Sequence[int]
) -> dict[str, Any]:
    return {
        "category_id": class_id,
        "iscrowd": 0,
        "area": area,
        "bbox": [corner[1], corner[0], extent[1], extent[0]],
        "segmentation": segmentation,
    }


def write_yolo_lines(label_map: NDArray[np.uint8], *, tolerance: float, min_area: int = 0) -> str:
    """Write each connected region of a label map as a line of YOLO's segmentation labels.

    Parameters
    ----------
    label_map : (H, W) uint8
        Not modified.
    tolerance, min_area
        See :func:`describe_polygons`.

    Returns
    -------
    str
        ``class x y x y ...``, shares of width and height; classes count from 0, without background.
    """
    lines = []
    for class_id, corner, region in iterate_regions(label_map, min_area=min_area):
        polygon = draw_polygon(region, tolerance=tolerance) + np.array(corner[::-1], float)
        shares = normalise_ring(polygon, label_map.shape).ravel()
        lines.append(f"{class_id - 1} " + " ".join(f"{share:.{_YOLO_DIGITS}g}" for share in shares))
    return "".join(f"{line}\n" for line in lines)
