"""Class activation maps: where the classifier looked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsrg.labels import list_present
from dsrg.scaling import scale_maps
from dsrg.store import count_cells

CAM_STRIDE = 4
_AFFINITY_STRIDE = 8
_AFFINITY_CELLS = 64


def normalise_cams(activations: NDArray[np.float32], image_labels: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Keep the present classes' activations and divide each by its maximum.

    Parameters
    ----------
    activations : (K, h, w) float32
        Rectified; not modified.
    image_labels : (K,) bool

    Returns
    -------
    (P, h, w) float32
        CAMs in [0, 1] of the present foreground classes, ascending. A class that is active nowhere
        stays 0.

    Notes
    -----
    Max-normalisation as in Zhou et al., "Learning Deep Features for Discriminative Localization",
    CVPR 2016, and all DSRG code.
    """
    kept = activations[list_present(image_labels)[1:] - 1]
    peaks = kept.max(axis=(1, 2), keepdims=True) if len(kept) else np.ones((0, 1, 1), np.float32)
    normalised: NDArray[np.float32] = kept / np.maximum(peaks, 1e-5)
    return normalised


def spread_cams(
    cams: NDArray[np.float32], features: Sequence[NDArray[np.float32]], *, power: float
) -> NDArray[np.float32]:
    """Spread CAMs over the cells that look alike: each cell gets the mean of all, weighted by affinity.

    A classifier looks at the telling part of an object. The rest of the object has features like that
    part's and the surroundings have others, so one step of a random walk along the affinities fills
    objects and dries out what lies between them.

    Parameters
    ----------
    cams : (P, h, w) float32
        CAMs in [0, 1] of the present foreground classes. Not modified.
    features : sequence of (C_i, rows, columns) float32
        Feature maps on one grid; each counts the same, whatever its channels.
    power : float
        Over 0. The affinity of two cells is the cosine of their features (centred over the picture;
        0 where negative) to this power: the larger, the more alike two cells must be.

    Returns
    -------
    (P, h, w) float32
        In [0, 1]: each map from 0 at its lowest to 1 at its highest cell; a map of one value becomes 0.

    References
    ----------
    .. [1] Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic
       Segmentation", CVPR 2020 (pixel correlation module: one step along rectified cosines).
    """
    if power <= 0:
        raise ValueError(f"`power` must be over 0, got {power}")
    if not len(cams):
        return cams.copy()
    grid = features[0].shape[1:]
    # Sums of float32 come out otherwise on another number of threads; in float64 the rounding hides it.
    wide = [maps.astype(np.float64) for maps in features]
    directions = _normalise_cells(np.concatenate([_normalise_cells(_centre(maps)) for maps in wide]))
    affinity = directions.T @ directions  # large: changed in place, for its memory costs as much as the sums
    np.maximum(affinity, 0, out=affinity)
    affinity **= power
    # A cell without features (all of them at the picture's mean) is like nothing, itself included.
    affinity[np.diag_indices_from(affinity)] = 1
    affinity /= affinity.sum(axis=1, keepdims=True)
    flat = scale_maps(cams, grid).reshape(len(cams), -1)
    walked = (flat @ affinity.T).astype(np.float32)
    spread = scale_maps(walked.reshape(len(cams), *grid), cams.shape[1:])
    low = spread.min(axis=(1, 2), keepdims=True)
    reach = spread.max(axis=(1, 2), keepdims=True) - low
    stretched: NDArray[np.float32] = np.where(reach > 1e-5, (spread - low) / np.maximum(reach, 1e-5), 0)
    return stretched


def choose_affinity_grid(size: Sequence[int]) -> tuple[int, int]:
    """Choose the grid that affinities are computed on: cells of 8 pixels, coarser over 512 pixels.

    Affinities need memory for every pair of cells; at most 64 x 64 of them take 134 MB.

    Examples
    --------
    >>> choose_affinity_grid((240, 320)), choose_affinity_grid((1024, 768))
    ((30, 40), (64, 48))
    """
    stride = _AFFINITY_STRIDE * -(-max(size) // (_AFFINITY_STRIDE * _AFFINITY_CELLS))
    return count_cells(size, stride)


def choose_view_side(size: Sequence[int], *, smallest: int, largest: int) -> int:
    """Choose the longer side of a picture's view at scale 1, in pixels: its own, within bounds.

    How far a picture is enlarged, not how large it becomes, decides whether a classifier still knows
    what it sees (docs/method.md). Pictures smaller than the classifier's training crops were enlarged to
    those in training.

    Parameters
    ----------
    size : (height, width)
    smallest : int
        Side of the classifier's training crops.
    largest : int
        Longest side that a view may have.

    Examples
    --------
    >>> [choose_view_side((side, 48), smallest=224, largest=320) for side in (64, 256, 1024)]
    [224, 256, 320]
    """
    return min(largest, max(smallest, *size))


def _centre(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Flatten (C, rows, columns) to (C, cells) and subtract each channel's mean over the picture."""
    flat = maps.reshape(len(maps), -1)
    centred: NDArray[np.float64] = flat - flat.mean(axis=1, keepdims=True)
    return centred


def _normalise_cells(flat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale every column of (C, cells) to length 1; a column of zeros stays."""
    lengths = np.linalg.norm(flat, axis=0, keepdims=True)
    scaled: NDArray[np.float64] = flat / np.maximum(lengths, 1e-6)
    return scaled


def add_background(cams: NDArray[np.float32], *, exponent: float) -> NDArray[np.float32]:
    """Put a background score ``(1 - largest CAM) ** exponent`` before the foreground CAMs.

    Parameters
    ----------
    cams : (F, H, W) float32
        In [0, 1]. Not modified.
    exponent : float
        The larger, the more foreground.

    Returns
    -------
    (F + 1, H, W) float32
    """
    largest = cams.max(axis=0) if len(cams) else np.zeros(cams.shape[1:], np.float32)
    background = np.clip(1 - largest, 0, 1) ** np.float32(exponent)
    return np.concatenate([background[None], cams]).astype(np.float32, copy=False)
