"""Label maps of pictures of any size, scaled down or in overlapping tiles, in bounded memory.

The network sees a picture, or each tile, at the size it was trained for, whatever the size in pixels.
Nothing here needs torch: networks answer with arrays, see :mod:`dsrg.networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dsrg.image import fit_size, scale_image
from dsrg.labels import BACKGROUND

Maps = NDArray[np.float32]
Progress = Callable[[int, int], None]

_STRIP = 256
_CRF_CLASSES = 24  # its memory grows with their number: 24 at 1024 x 768 pixels take a gigabyte


class Network(Protocol):
    """What draws: class probabilities of a view, on the network's own grid.

    Attributes
    ----------
    classes : tuple of C str
        Names by class id, background first.
    input_size : int
        Longer side, in pixels, that pictures had in training.
    """

    classes: tuple[str, ...]
    input_size: int

    def view(self, images: NDArray[np.uint8], *, scale: float, flip: bool) -> Maps:
        """See pictures (B, H, W, 3) uint8 at `scale` times the input size; (B, C, h, w) float32."""


@dataclass(frozen=True)
class Style:
    """How a label map is drawn.

    Attributes
    ----------
    scales : tuple of float
        Input scales that are averaged.
    flip : bool
        Average with the mirrored view.
    crf : dict or None
        Settings of `dsrg.crf.refine_probs`; None leaves the edges as the network draws them.
    max_side : int
        Probabilities and CRF have no longer side than this, pixels; the label map has the picture's.
    tile : int or None
        Side of the tiles, pixels of the picture; None, or a picture no larger: the picture at once.
    overlap : int
        Pixels that neighbouring tiles share, at least; up to half a tile.
    min_peak : float
        Classes that nowhere exceed this probability are left out.
    """

    scales: tuple[float, ...]
    flip: bool
    crf: dict[str, Any] | None
    max_side: int
    tile: int | None
    overlap: int
    min_peak: float


def draw_label_map(
    network: Network, picture: NDArray[np.uint8], style: Style, *, report: Progress | None = None
) -> NDArray[np.uint8]:
    """Draw a label map of a picture of any size.

    Parameters
    ----------
    network : Network
    picture : (H, W, 3) uint8
        Not modified.
    style : Style
    report : callable, optional
        Told how many tiles of how many are done.

    Returns
    -------
    (H, W) uint8
        Class ids.

    Notes
    -----
    In tiles, each is drawn as a picture of its own, CRF included; their probabilities are then averaged
    with weights that fall to zero towards a tile's inner edges, so that no edge shows. At most two rows of
    tiles are held, and only the classes that some tile shows.
    """
    size = (picture.shape[0], picture.shape[1])
    if style.tile is None or max(size) <= style.tile:
        return choose_classes(*predict_picture(network, picture, style), size)
    return _draw_tiles(network, picture, style, tile=style.tile, report=report)


def predict_picture(
    network: Network, picture: NDArray[np.uint8], style: Style
) -> tuple[NDArray[np.int64], Maps]:
    """Predict the likely classes of a picture at its own size, or at ``style.max_side`` if that is smaller.

    Parameters
    ----------
    network : Network
    picture : (H, W, 3) uint8
        Not modified.
    style : Style
        ``tile`` and ``overlap`` are not read.

    Returns
    -------
    ids : (P,) int64
        Ascending, background included.
    probs : (P, h, w) float32
        Their probabilities, refined if ``style.crf`` says so.

    Notes
    -----
    Of more than 24 likely classes, the CRF is given those that cover most.
    """
    small = scale_image(picture, fit_size(picture.shape, style.max_side))
    views = [network.view(small[None], scale=scale, flip=style.flip)[0] for scale in style.scales]
    ids = _list_likely(views, style.min_peak)
    if style.crf is not None and len(ids) > _CRF_CLASSES:
        ids = _list_largest(views, ids)
    probs = np.zeros((len(ids), *small.shape[:2]), np.float32)
    for maps in views:
        probs += interpolate_maps(maps[ids], small.shape[:2])
    probs /= np.float32(len(views))
    if style.crf is not None:
        from dsrg.crf import refine_probs

        probs = refine_probs(probs, small, **style.crf)
    return ids, probs


def _list_likely(views: Sequence[Maps], min_peak: float) -> NDArray[np.int64]:
    """List background and the classes that exceed `min_peak` in some view; no mean of views exceeds more."""
    peaks = np.max([maps.max(axis=(1, 2)) for maps in views], axis=0)
    likely = peaks > min(min_peak, 0.5 / len(peaks))  # among many classes, less could win
    likely[BACKGROUND] = True
    return np.flatnonzero(likely)


def _list_largest(views: Sequence[Maps], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """List background and the classes that cover most, as many as a CRF may have."""
    covered = np.mean([maps[ids].mean(axis=(1, 2)) for maps in views], axis=0)
    covered[ids == BACKGROUND] = np.inf
    return np.sort(ids[np.argsort(-covered, kind="stable")[:_CRF_CLASSES]])


def interpolate_maps(maps: Maps, size: Sequence[int], *, rows: slice = slice(None)) -> Maps:
    """Interpolate maps bilinearly, as ``torch.nn.functional.interpolate`` does with its usual settings.

    Parameters
    ----------
    maps : (P, h, w) float32
        Not modified.
    size : (H, W)
        Where smaller than ``(h, w)``, values are sampled, not averaged.
    rows : slice
        Compute only these of the ``H`` rows.

    Returns
    -------
    (P, len(rows), W) float32

    Examples
    --------
    >>> interpolate_maps(np.array([[[0, 4]]], np.float32), (1, 4)).tolist()
    [[[0.0, 1.0, 3.0, 4.0]]]
    """
    upper, lower, share = _place_samples(maps.shape[1], int(size[0]))
    share = share[rows][:, None]
    tall = maps[:, upper[rows]]
    tall += (maps[:, lower[rows]] - tall) * share
    left, right, share = _place_samples(maps.shape[2], int(size[1]))
    wide = tall[..., left]
    step = tall[..., right]
    step -= wide
    step *= share
    wide += step
    return wide


def _place_samples(
    count: int, wanted: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Place `wanted` samples among `count` cells: the cells before and after, and the share of the latter."""
    centres = np.maximum((np.arange(wanted) + 0.5) * (count / wanted) - 0.5, 0)
    before = np.minimum(centres.astype(np.int64), count - 1)
    after = np.minimum(before + 1, count - 1)
    return before, after, (centres - before).astype(np.float32)


def choose_classes(ids: NDArray[np.int64], probs: Maps, size: Sequence[int]) -> NDArray[np.uint8]:
    """Choose the likeliest class of every pixel at a larger size, a strip of rows at a time.

    Parameters
    ----------
    ids : (P,) int64
    probs : (P, h, w) float32
        Not modified.
    size : (H, W)

    Returns
    -------
    (H, W) uint8
        The lowest id where several are equal.
    """
    names = ids.astype(np.uint8)
    if probs.shape[1:] == tuple(size):
        at_once: NDArray[np.uint8] = names[probs.argmax(axis=0)]
        return at_once
    label_map = np.empty((int(size[0]), int(size[1])), np.uint8)
    for top in range(0, label_map.shape[0], _STRIP):
        rows = slice(top, min(top + _STRIP, label_map.shape[0]))
        best = np.zeros((rows.stop - rows.start, label_map.shape[1]), np.float32)
        label_map[rows] = names[0]
        for class_id, plane in zip(names, probs, strict=True):
            raised = interpolate_maps(plane[None], size, rows=rows)[0]
            higher = raised > best
            label_map[rows][higher] = class_id
            np.maximum(best, raised, out=best)
    return label_map


def lay_tiles(length: int, *, tile: int, overlap: int) -> list[int]:
    """Lay tiles along one side of a picture, evenly, so that neighbours share `overlap` pixels or more.

    Parameters
    ----------
    length, tile, overlap : int
        Pixels; `overlap` from 0 to half of `tile`.

    Returns
    -------
    list of int
        Where they begin; the last one ends with the side. One, at 0, where the side is no longer than a
        tile.

    Examples
    --------
    >>> lay_tiles(1000, tile=400, overlap=100)
    [0, 300, 600]
    >>> lay_tiles(300, tile=400, overlap=100)
    [0]
    """
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"`overlap` must be from 0 to half of `tile` ({tile // 2}), got {overlap}.")
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(number * (length - tile) / (count - 1)) for number in range(count)]


def weigh_tiles(starts: Sequence[int], length: int, *, tile: int) -> Maps:
    """Weigh the pixels of tiles along one side: falling towards edges that a neighbour covers.

    Parameters
    ----------
    starts : sequence of T int
        As `lay_tiles` lays them.
    length, tile : int
        Pixels.

    Returns
    -------
    (T, min(tile, length)) float32
        The weights of each of the picture's pixels add up to 1. Linear ramps as wide as the overlap.

    Examples
    --------
    >>> weigh_tiles([0, 2], 6, tile=4).round(2).tolist()
    [[1.0, 1.0, 0.67, 0.33], [0.33, 0.67, 1.0, 1.0]]
    """
    side = min(tile, length)
    weights = np.ones((len(starts), side))
    for number, start in enumerate(starts):
        if number > 0:
            shared = starts[number - 1] + side - start
            weights[number, :shared] = np.minimum(weights[number, :shared], _ramp(shared))
        if number + 1 < len(starts):
            shared = start + side - starts[number + 1]
            weights[number, side - shared :] = np.minimum(
                weights[number, side - shared :], _ramp(shared)[::-1]
            )
    total = np.zeros(length)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + side] += row
    return np.stack(
        [row / total[start : start + side] for start, row in zip(starts, weights, strict=True)]
    ).astype(np.float32)


def _ramp(count: int) -> NDArray[np.float64]:
    return (np.arange(count) + 1) / (count + 1)


class _Band:
    """Sums of weighted probabilities over one row of tiles, of the classes that occurred."""

    def __init__(self, height: int, width: int) -> None:
        self._shape = (height, width)
        self._planes: dict[int, Maps] = {}

    def add(self, class_id: int, top_left: tuple[int, int], values: Maps) -> None:
        plane = self._planes.setdefault(class_id, np.zeros(self._shape, np.float32))
        top, left = top_left
        plane[top : top + values.shape[0], left : left + values.shape[1]] += values

    def choose(self, rows: int) -> NDArray[np.uint8]:
        """Choose the likeliest class in the first `rows` rows."""
        best = np.zeros((rows, self._shape[1]), np.float32)
        label_map = np.full(best.shape, BACKGROUND, np.uint8)
        for class_id in sorted(self._planes):
            plane = self._planes[class_id][:rows]
            label_map[plane > best] = class_id
            np.maximum(best, plane, out=best)
        return label_map

    def shift(self, rows: int) -> None:
        """Move up by `rows` rows; empty ones follow."""
        for plane in self._planes.values():
            plane[:-rows] = plane[rows:].copy()
            plane[-rows:] = 0


def _draw_tiles(
    network: Network, picture: NDArray[np.uint8], style: Style, *, tile: int, report: Progress | None
) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    tops = lay_tiles(height, tile=tile, overlap=style.overlap)
    lefts = lay_tiles(width, tile=tile, overlap=style.overlap)
    down = weigh_tiles(tops, height, tile=tile)
    across = weigh_tiles(lefts, width, tile=tile)
    band = _Band(down.shape[1], width)
    label_map = np.empty((height, width), np.uint8)
    done = 0
    for top, next_top, of_row in zip(tops, [*tops[1:], height], down, strict=True):
        for left, of_column in zip(lefts, across, strict=True):
            window = picture[top : top + len(of_row), left : left + len(of_column)]
            ids, probs = predict_picture(network, np.ascontiguousarray(window), style)
            weights = of_row[:, None] * of_column
            for class_id, plane in zip(ids.tolist(), probs, strict=True):
                band.add(class_id, (0, left), interpolate_maps(plane[None], window.shape[:2])[0] * weights)
            done += 1
            if report is not None:
                report(done, len(tops) * len(lefts))
        label_map[top:next_top] = band.choose(next_top - top)
        if next_top < height:
            band.shift(next_top - top)
    return label_map
