"""Polygons around regions, along the edges of pixels, so that filling one gives the region back.

Points are (x, y) in pixels with the origin at the picture's top left corner, as COCO and YOLO write
them: the pixel in row ``r`` and column ``c`` covers x from ``c`` to ``c + 1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
Ints = NDArray[np.int64]


def trace_rings(mask: NDArray[np.bool_]) -> list[Ring]:
    """Trace the borders of all regions of a mask; pixels that touch at a corner belong together.

    Parameters
    ----------
    mask : (H, W) bool
        Not modified.

    Returns
    -------
    list of (V, 2) float64
        Corners (x, y) of each border, not closed. Outer borders run clockwise as seen (their area by
        :func:`measure_area` is positive), borders of holes the other way.
    """
    starts, ends = _find_segments(mask)
    order = _link(starts, ends, mask.shape[1] + 1)
    rings = []
    waiting = np.ones(len(order), bool)
    for first in range(len(order)):
        if not waiting[first]:
            continue
        ring = []
        current = first
        while waiting[current]:
            waiting[current] = False
            ring.append(current)
            current = int(order[current])
        corners = starts[ring]
        rings.append(
            np.stack([corners % (mask.shape[1] + 1), corners // (mask.shape[1] + 1)], axis=1).astype(float)
        )
    return rings


# The four directions in which a border runs, region on the right hand.
_RIGHT, _DOWN, _LEFT, _UP = range(4)


def _find_segments(mask: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Find the longest straight pieces of all borders: numbers of the grid points they lead from and to."""
    inside = np.pad(mask, 1).astype(np.int8)
    width = mask.shape[1] + 1
    across = np.diff(inside, axis=0)[:, 1:-1]  # (H + 1, W): 1 where a region begins below the edge
    along = np.diff(inside, axis=1)[1:-1]  # (H, W + 1): 1 where a region begins right of the edge
    pieces = []
    for sign, forward in ((1, True), (-1, False)):
        row, begin, end = _find_runs(np.equal(across, sign))
        one, other = row * width + begin, row * width + end
        pieces.append((one, other) if forward else (other, one))
    for sign, forward in ((-1, True), (1, False)):
        column, begin, end = _find_runs(np.equal(along.T, sign))
        one, other = begin * width + column, end * width + column
        pieces.append((one, other) if forward else (other, one))
    return np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces])


def _find_runs(flags: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
    """Find runs of True in each row: row, first column, column after the last."""
    steps = np.diff(np.pad(flags, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, begins = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    return rows, begins, ends


def _link(starts: Ints, ends: Ints, width: int) -> Ints:
    """Find the piece that follows each piece: at a point where two follow, the one to the left."""
    direction = _measure_direction(starts, ends, width)
    order = np.empty(len(starts), np.int64)
    for heading in range(4):
        comes = np.flatnonzero(direction == heading)
        left = _look_up(starts, direction, (heading - 1) % 4, ends[comes])
        right = _look_up(starts, direction, (heading + 1) % 4, ends[comes])
        order[comes] = np.where(left >= 0, left, right)
    return order


def _measure_direction(starts: Ints, ends: Ints, width: int) -> Ints:
    step = ends - starts
    flat = starts // width == ends // width
    return np.where(flat, np.where(step > 0, _RIGHT, _LEFT), np.where(step > 0, _DOWN, _UP))


def _look_up(starts: Ints, direction: Ints, heading: int, points: Ints) -> Ints:
    """Find the piece of one direction that starts at each point; -1 where there is none."""
    those = np.flatnonzero(direction == heading)
    if not len(those):
        return np.full(len(points), -1)
    those = those[np.argsort(starts[those])]
    place = np.minimum(np.searchsorted(starts[those], points), len(those) - 1)
    return np.where(starts[those[place]] == points, those[place], -1)


def measure_area(ring: Ring) -> float:
    """Measure the area in a ring of corners, (V, 2), by the shoelace rule; negative where it is a hole's."""
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def simplify_ring(ring: Ring, *, tolerance: float) -> Ring:
    """Leave out corners of a ring that lie within a distance of the line without them.

    Parameters
    ----------
    ring : (V, 2) float64
        Not modified.
    tolerance : float
        In pixels (Douglas and Peucker's rule); 0 keeps every corner.

    Returns
    -------
    (U, 2) float64
        At least three corners; `ring` itself where fewer would remain.
    """
    if tolerance <= 0 or len(ring) <= 4:
        return ring
    from skimage.measure import approximate_polygon  # takes a while to import

    # Two opposite corners stay: a closed line has no ends to begin with.
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(axis=1)))
    halves = [ring[: far + 1], np.concatenate([ring[far:], ring[:1]])]
    kept = [approximate_polygon(half, tolerance)[:-1] for half in halves]
    simple: Ring = np.concatenate(kept)
    return simple if len(simple) >= 3 else ring


def draw_polygon(region: NDArray[np.bool_], *, tolerance: float = 0.0, max_error: float = 0.05) -> Ring:
    """Draw one polygon around a region; holes are cut in by a slit of no width.

    Neither COCO's nor YOLO's polygons know holes: the slit leads from the outer border to the hole and
    back, and filling by the usual even-odd rule leaves the hole out.

    Parameters
    ----------
    region : (H, W) bool
        One region, connected through edges or corners. Not modified.
    tolerance : float
        Corners within so many pixels of the line without them are left out; 0 gives the region exactly.
    max_error : float
        Bounds `tolerance` where a region is small or thin: to this share of its area over the length of
        its borders. With 0.05, what was drawn of 605 classes in photographs overlapped with what was
        meant by an IoU of at least 0.984, 0.997 in the mean.

    Returns
    -------
    (V, 2) float64
    """
    rings = trace_rings(region)
    border = sum(np.abs(np.diff(ring, axis=0, append=ring[:1])).sum() for ring in rings)
    allowed = min(tolerance, max_error * float(region.sum()) / border)
    rings = [simplify_ring(ring, tolerance=allowed) for ring in rings]
    outer = [ring for ring in rings if measure_area(ring) > 0]
    if len(outer) != 1:
        raise ValueError(f"`region` must be one connected region, got {len(outer)}")
    polygon = outer[0]
    for hole in rings:
        if measure_area(hole) < 0:
            polygon = _cut_in(polygon, hole)
    return polygon


def _cut_in(polygon: Ring, hole: Ring) -> Ring:
    """Cut a hole into a polygon, by a slit between the corners that are nearest to each other."""
    from scipy.spatial import cKDTree

    distances, nearest = cKDTree(polygon).query(hole)
    start = int(np.argmin(distances))
    at = int(nearest[start])
    turned = np.roll(hole, -start, axis=0)
    return np.concatenate([polygon[: at + 1], turned, turned[:1], polygon[at:]])


def flatten_ring(ring: Ring, *, digits: int) -> list[float]:
    """Flatten corners (x, y) to COCO's list ``[x, y, x, y, ...]``, rounded; whole numbers as such."""
    return [_shorten(value, digits) for value in ring.ravel().tolist()]


def _shorten(value: float, digits: int) -> Any:
    return int(value) if value == int(value) else round(value, digits)


def normalise_ring(ring: Ring, size: Sequence[int]) -> Ring:
    """Express corners as shares of a picture's width and height; `size` is (height, width)."""
    shares: Ring = ring / np.array([size[1], size[0]], float)
    return shares
