"""Which pictures to show of many that were scored: the best, the middle and the worst."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dsrg.metrics import mean_iou, settle_unlabelled

GROUPS = ("best", "median", "worst")


def score_picture(counts: NDArray[np.int64]) -> float:
    """Score one picture: the mean IoU over the classes that have true pixels in it.

    Parameters
    ----------
    counts : (C, C + 1) int64
        Of `dsrg.metrics.count_pixels`; unlabelled pixels count as background.

    Returns
    -------
    float
        In [0, 1]; NaN where no true pixel is known.

    Notes
    -----
    The mean over pictures is not the mIoU of the split, which comes from one table of all pixels.
    """
    return mean_iou(settle_unlabelled(counts, unlabelled="background"))


def measure_disagreement(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Measure the share of pixels that two label maps of a picture give different classes.

    Parameters
    ----------
    one, other : (H, W) uint8

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> measure_disagreement(np.array([[0, 1]], np.uint8), np.array([[0, 2]], np.uint8))
    0.5
    """
    return float((one != other).mean())


def rank_rows(scores: Mapping[int, float], *, count: int, high_is_good: bool) -> dict[str, list[int]]:
    """Choose the best, the middle and the worst pictures; none twice.

    Parameters
    ----------
    scores : mapping of int to float
        By row. NaN is left out. Equal scores are ordered by row.
    count : int
        At most so many of each kind; fewer where there are not three times as many pictures.
    high_is_good : bool
        Whether a high score is a good one.

    Returns
    -------
    dict
        ``best`` from the best down, ``median`` from better to worse around the middle, ``worst`` from the
        worst up: rows.

    Examples
    --------
    >>> rank_rows({0: 0.9, 1: 0.1, 2: 0.5, 3: 0.7, 4: 0.6}, count=1, high_is_good=True)
    {'best': [0], 'median': [4], 'worst': [1]}
    """
    sign = -1.0 if high_is_good else 1.0
    known = {row: score for row, score in scores.items() if math.isfinite(score)}
    order = sorted(known, key=lambda row: (sign * known[row], row))
    each = min(count, max(1, len(order) // 3))
    if each <= 0:
        return {group: [] for group in GROUPS}
    best, rest = order[:each], order[each:]
    worst, middle = rest[-each:][::-1], rest[:-each]
    start = max(0, (len(middle) - each) // 2)
    return {"best": best, "median": middle[start : start + each], "worst": worst}
