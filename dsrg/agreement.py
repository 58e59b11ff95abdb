"""How well label maps agree with image-level labels: the one score of a segmenter that needs no mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsrg.labels import BACKGROUND, IGNORE_INDEX

_MIN_SHARE = 0.001


def measure_areas(label_map: NDArray[np.uint8], *, num_classes: int) -> NDArray[np.float64]:
    """Measure the share of a picture that each class covers.

    Parameters
    ----------
    label_map : (H, W) uint8
        Class ids; 255 where unlabelled.
    num_classes : int
        ``C``, background included.

    Returns
    -------
    (C,) float64
        Sums to 1 where nothing is unlabelled.

    Examples
    --------
    >>> measure_areas(np.array([[0, 0], [2, 255]], np.uint8), num_classes=3)
    array([0.5 , 0.  , 0.25])
    """
    known = label_map[label_map != IGNORE_INDEX]
    counts = np.bincount(known, minlength=num_classes)
    shares: NDArray[np.float64] = counts / label_map.size
    return shares


def score_agreement(areas: NDArray[np.float64], image_labels: NDArray[np.bool_]) -> dict[str, float]:
    """Score how well the label maps of some pictures agree with their image-level labels.

    Parameters
    ----------
    areas : (N, C) float64
        Of `measure_areas`, background first.
    image_labels : (N, K) bool
        ``K = C - 1`` foreground classes.

    Returns
    -------
    dict
        ``precision``: share of the foreground pixels whose class the picture holds; ``recall``: share of
        the image-level labels whose class covers at least a thousandth of its picture; ``agreement``:
        their harmonic mean. NaN where there is nothing to count.

    Notes
    -----
    It sees classes that are confused, missed or invented. It sees no outline: a segmenter that draws
    the right class too large agrees as well as one that draws it right. So it tells a round that went
    astray from one that did not, and not which of two good ones is better.

    Examples
    --------
    >>> areas = np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])
    >>> score_agreement(areas, np.array([[True, False], [True, False]]))
    {'precision': 0.75, 'recall': 1.0, 'agreement': 0.8571428571428571}
    """
    drawn = np.delete(areas, BACKGROUND, axis=1)
    total, labels = float(drawn.sum()), int(image_labels.sum())
    right = float(drawn[image_labels].sum())
    found = int((drawn[image_labels] >= _MIN_SHARE).sum())
    precision = right / total if total else float("nan")
    recall = found / labels if labels else float("nan")
    both = precision + recall
    agreement = 2 * precision * recall / both if both else 0.0
    return {"precision": precision, "recall": recall, "agreement": agreement}
