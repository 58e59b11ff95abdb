"""Scaling of maps between the network's grid and the picture, without torch: workers start fast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def scale_maps(maps: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    """Scale maps to another size by bilinear interpolation between pixel centres.

    Parameters
    ----------
    maps : (M, h, w) float32
        Not modified.
    size : (height, width)

    Returns
    -------
    (M, height, width) float32

    Examples
    --------
    >>> scale_maps(np.array([[[0, 1]]], np.float32), (1, 4)).tolist()
    [[[0.0, 0.25, 0.75, 1.0]]]
    """
    down = _build_weights(maps.shape[1], int(size[0]))
    across = _build_weights(maps.shape[2], int(size[1]))
    return np.asarray(down @ maps @ across.T, np.float32)


def _build_weights(source: int, target: int) -> NDArray[np.float32]:
    """Build the (target, source) matrix of bilinear interpolation along one axis."""
    centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(centres).astype(np.int64)
    high = np.minimum(low + 1, source - 1)
    share = (centres - low).astype(np.float32)
    weights = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    weights[rows, low] += 1 - share
    weights[rows, high] += share
    return weights
