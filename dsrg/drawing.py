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
Planes = dict[int, NDArray[np.floating[Any]]]
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
        Larger pictures are drawn at this longer side, in pixels, and no CRF works on more at once; the
        label map has the picture's size.
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
        Told how many steps of how many are done, where there are tiles.

    Returns
    -------
    (H, W) uint8
        Class ids.

    Notes
    -----
    In tiles, each is seen by the network as a picture of its own. Their probabilities are averaged with
    weights that fall to zero towards a tile's inner edges; then come the CRF, over windows of the whole
    that are averaged in the same way, and the choice of a class, so that no edge shows. All of it happens
    on a grid of the finest view's pixels: the network knows nothing of finer ones.
    """
    size = (picture.shape[0], picture.shape[1])
    if style.tile is None or max(size) <= style.tile:
        small = scale_image(picture, fit_size(size, style.max_side))
        planes = dict(zip(*predict_picture(network, small, style), strict=True))
        if style.crf is not None:
            planes = _refine_window(planes, small, style.crf)
        return choose_classes(planes, size)
    tile = min(style.tile, round(network.input_size * max(style.scales)))
    factor = tile / style.tile
    small = scale_image(picture, fit_size(size, max(tile, round(max(size) * factor))))
    tiling = Tiling(small.shape, tile=tile, overlap=round(style.overlap * factor))
    windows = Tiling(small.shape, tile=style.max_side, overlap=style.max_side // 8)
    steps = _count_steps(len(tiling) + (len(windows) if style.crf is not None else 0), report)

    def predict(window: NDArray[np.uint8], _: tuple[slice, slice]) -> Planes:
        return dict(zip(*predict_picture(network, window, style), strict=True))

    planes = tiling.blend(small, predict, step=steps)
    if style.crf is not None:
        crf = style.crf
        whole = planes

        def refine(window: NDArray[np.uint8], place: tuple[slice, slice]) -> Planes:
            cut = {class_id: plane[place].astype(np.float32) for class_id, plane in whole.items()}
            return _refine_window(_keep_likely(cut, style.min_peak), window, crf)

        planes = windows.blend(small, refine, step=steps)
    return choose_classes(planes, size)


def _count_steps(total: int, report: Progress | None) -> Callable[[], None]:
    done = iter(range(1, total + 1))
    return lambda: report(next(done), total) if report is not None else None


def predict_picture(network: Network, picture: NDArray[np.uint8], style: Style) -> tuple[list[int], Maps]:
    """Predict the likely classes of a picture, averaged over views, at its own size.

    Parameters
    ----------
    network : Network
    picture : (H, W, 3) uint8
        Not modified.
    style : Style
        Its ``scales``, ``flip`` and ``min_peak``.

    Returns
    -------
    ids : list of P int
        Ascending, background included.
    probs : (P, H, W) float32
        Their probabilities.
    """
    views = [network.view(picture[None], scale=scale, flip=style.flip)[0] for scale in style.scales]
    ids = _list_likely(views, style.min_peak)
    probs = np.zeros((len(ids), *picture.shape[:2]), np.float32)
    for maps in views:
        probs += interpolate_maps(maps[ids], picture.shape[:2])
    probs /= np.float32(len(views))
    return ids.tolist(), probs


def _refine_window(planes: Planes, picture: NDArray[np.uint8], crf: dict[str, Any]) -> Planes:
    """Refine by a CRF; of too many classes, those that cover most."""
    from dsrg.crf import refine_probs

    order = sorted(planes, key=lambda k: (k != BACKGROUND, -float(planes[k].sum(dtype=np.float64)), k))
    ids = sorted(order[:_CRF_CLASSES])
    probs = np.stack([planes[class_id] for class_id in ids])
    return dict(zip(ids, refine_probs(probs, picture, **crf), strict=True))


def _keep_likely(planes: Planes, min_peak: float) -> Planes:
    return {k: plane for k, plane in planes.items() if k == BACKGROUND or float(plane.max()) > min_peak}


def _list_likely(views: Sequence[Maps], min_peak: float) -> NDArray[np.int64]:
    """List background and the classes that exceed `min_peak` in some view; no mean of views exceeds more."""
    peaks = np.max([maps.max(axis=(1, 2)) for maps in views], axis=0)
    likely = peaks > min(min_peak, 0.5 / len(peaks))  # among many classes, less could win
    likely[BACKGROUND] = True
    return np.flatnonzero(likely)


def interpolate_maps(maps: Maps, size: Sequence[int], *, rows: slice = slice(None)) -> Maps:
    """Interpolate maps bilinearly, as ``torch.nn.functional.interpolate`` does with its usual settings.

    Parameters
    ----------
    maps : (P, h, w) float32 or float16
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
    tall = maps[:, upper[rows]].astype(np.float32, copy=False)
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


def choose_classes(planes: Planes, size: Sequence[int]) -> NDArray[np.uint8]:
    """Choose the likeliest class of every pixel at a larger size, a strip of rows at a time.

    Parameters
    ----------
    planes : dict of int to (h, w) float32 or float16
        Probabilities by class id. Not modified.
    size : (H, W)

    Returns
    -------
    (H, W) uint8
        The lowest id where several are equal; background where all are 0.
    """
    label_map = np.full((int(size[0]), int(size[1])), BACKGROUND, np.uint8)
    for top in range(0, label_map.shape[0], _STRIP):
        rows = slice(top, min(top + _STRIP, label_map.shape[0]))
        best = np.zeros((rows.stop - rows.start, label_map.shape[1]), np.float32)
        for class_id in sorted(planes):
            plane = planes[class_id]
            same = plane.shape == label_map.shape
            raised = plane[rows] if same else interpolate_maps(plane[None], size, rows=rows)[0]
            label_map[rows][raised > best] = class_id
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
    >>> weigh_tiles([0, 2], 6, tile=4).astype(float).round(2).tolist()
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


class Tiling:
    """Overlapping tiles of a picture, and how to put together what is made of them.

    Parameters
    ----------
    size : (height, width, ...)
        Of the picture.
    tile, overlap : int
        Pixels, see `lay_tiles`.
    """

    def __init__(self, size: Sequence[int], *, tile: int, overlap: int) -> None:
        self._size = (int(size[0]), int(size[1]))
        self._starts = [lay_tiles(length, tile=tile, overlap=overlap) for length in self._size]
        self._weights = [
            weigh_tiles(starts, length, tile=tile)
            for starts, length in zip(self._starts, self._size, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._starts[0]) * len(self._starts[1])

    def blend(
        self,
        picture: NDArray[np.uint8],
        draw: Callable[[NDArray[np.uint8], tuple[slice, slice]], Planes],
        *,
        step: Callable[[], None] = lambda: None,
    ) -> Planes:
        """Draw every tile, and average what tiles share by their weights.

        Parameters
        ----------
        picture : (H, W, 3) uint8
        draw : callable
            Given a tile and its place, returns (h, w) float32 by class id.
        step : callable
            Called after each tile.

        Returns
        -------
        dict of int to (H, W) float16
            By class id; classes that no tile returned are left out.
        """
        planes: Planes = {}
        for top, down in zip(self._starts[0], self._weights[0], strict=True):
            for left, across in zip(self._starts[1], self._weights[1], strict=True):
                place = (slice(top, top + len(down)), slice(left, left + len(across)))
                weights = down[:, None] * across
                for class_id, values in draw(np.ascontiguousarray(picture[place]), place).items():
                    if class_id not in planes:
                        planes[class_id] = np.zeros(self._size, np.float16)
                    planes[class_id][place] += (values * weights).astype(np.float16)
                step()
        return planes
