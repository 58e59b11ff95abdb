"""Scores of label maps and classifiers against the truth.

Everything about label maps comes from one table of pixel counts: rows are true classes, columns
predicted classes, and one last column counts pixels that were left unlabelled. Tables of pictures
add up, so a whole split has one table and one mIoU.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dsrg.labels import BACKGROUND, IGNORE_INDEX

Policy = Literal["background", "excluded"]
POLICIES: tuple[Policy, ...] = ("background", "excluded")


def count_pixels(
    gt_label: NDArray[np.uint8], label_map: NDArray[np.uint8], *, num_classes: int
) -> NDArray[np.int64]:
    """Count pixels by true and given class, unlabelled pixels in a column of their own.

    Pixels whose truth is 255 are left out.

    Parameters
    ----------
    gt_label : (H, W) uint8
        True class ids, 255 where unknown.
    label_map : (H, W) uint8
        Given class ids, 255 where unlabelled.
    num_classes : int
        ``C``, background included.

    Returns
    -------
    (C, C + 1) int64
        Rows truth, columns given; the last column is "unlabelled".

    Raises
    ------
    ValueError
        Sizes differ, or an id is neither a class nor 255.

    Examples
    --------
    >>> count_pixels(np.array([[0, 1, 255]], np.uint8), np.array([[0, 255, 1]], np.uint8), num_classes=2)
    array([[1, 0, 0],
           [0, 0, 1]])
    """
    if gt_label.shape != label_map.shape:
        raise ValueError(
            f"`label_map` must have the size of the truth {gt_label.shape}, got {label_map.shape}."
        )
    known = gt_label != IGNORE_INDEX
    truth = gt_label[known].astype(np.int64)
    given = label_map[known].astype(np.int64)
    _check_ids("gt_label", truth, num_classes)
    given[given == IGNORE_INDEX] = num_classes
    _check_ids("label_map", given, num_classes + 1)
    columns = num_classes + 1
    counts = np.bincount(truth * columns + given, minlength=num_classes * columns)
    return counts.reshape(num_classes, columns)


def settle_unlabelled(counts: NDArray[np.int64], *, unlabelled: Policy) -> NDArray[np.int64]:
    """Settle what unlabelled pixels count as: a (C, C + 1) table becomes a confusion.

    Parameters
    ----------
    counts : (C, C + 1) int64
        Of `count_pixels`. Not modified.
    unlabelled : {"background", "excluded"}
        Count them as background, or leave them out altogether.

    Returns
    -------
    (C, C) int64
    """
    if unlabelled not in POLICIES:
        raise ValueError(f"`unlabelled` must be one of {', '.join(POLICIES)}, got {unlabelled!r}.")
    confusion = counts[:, :-1].copy()
    if unlabelled == "background":
        confusion[:, BACKGROUND] += counts[:, -1]
    return confusion


def count_confusion(
    gt_label: NDArray[np.uint8], label_map: NDArray[np.uint8], *, num_classes: int, unlabelled: Policy
) -> NDArray[np.int64]:
    """Count the confusion of one picture.

    Parameters
    ----------
    gt_label, label_map : (H, W) uint8
        Class ids; 255 in the truth is left out.
    num_classes : int
        ``C``.
    unlabelled : {"background", "excluded"}
        What 255 in `label_map` counts as.

    Returns
    -------
    (C, C) int64
        Rows truth, columns prediction.
    """
    counts = count_pixels(gt_label, label_map, num_classes=num_classes)
    return settle_unlabelled(counts, unlabelled=unlabelled)


def compute_iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute each class's intersection over union.

    Parameters
    ----------
    confusion : (C, C) int64
        Rows truth, columns prediction.

    Returns
    -------
    (C,) float64
        NaN for a class without a true pixel; 0 for one that was never hit.

    Examples
    --------
    >>> compute_iou(np.array([[3, 1, 0], [0, 0, 0], [1, 0, 1]]))
    array([0.6, nan, 0.5])
    """
    hits = np.diag(confusion).astype(np.float64)
    truth = confusion.sum(axis=1)
    union = truth + confusion.sum(axis=0) - hits
    iou = np.full(len(hits), np.nan)
    np.divide(hits, union, out=iou, where=truth > 0)
    return iou


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Average the IoU over classes with true pixels, those with IoU 0 included.

    Parameters
    ----------
    confusion : (C, C) int64

    Returns
    -------
    float
        NaN if no class has a true pixel.

    Notes
    -----
    The official ``evaluate.py`` averages only over classes that were hit at least once, which
    overstates the score where a class is missed altogether.
    """
    iou = compute_iou(confusion)
    scored = iou[~np.isnan(iou)]
    return float(scored.mean()) if scored.size else float("nan")


class CueQuality:
    """Coverage, precision and recall of partial labels, background and foreground apart.

    Parameters
    ----------
    num_classes : int
        ``C``, background included.

    Examples
    --------
    >>> quality = CueQuality(2)
    >>> quality.add(np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 255, 1, 0]], np.uint8))
    >>> quality.summarise()["foreground"]
    {'coverage': 0.25, 'precision': 1.0, 'recall': 0.5}
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def add(self, gt_label: NDArray[np.uint8], label_map: NDArray[np.uint8]) -> None:
        """Count one picture."""
        self.counts += count_pixels(gt_label, label_map, num_classes=len(self.counts))

    def add_counts(self, counts: NDArray[np.int64]) -> None:
        """Add the table of other pictures, (C, C + 1) int64."""
        self.counts += counts

    def summarise(self) -> dict[str, dict[str, float]]:
        """Summarise all pictures; see `summarise_quality`."""
        return summarise_quality(self.counts)


def summarise_quality(counts: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Summarise a table of counts as coverage, precision and recall.

    Parameters
    ----------
    counts : (C, C + 1) int64
        Of `count_pixels`.

    Returns
    -------
    dict
        ``background``, ``foreground`` and ``all``, each with

        * ``coverage``: share of all pixels that carry such a label;
        * ``precision``: share of these whose class is exactly right;
        * ``recall``: share of the true pixels that are labelled with their class.

        NaN where there is nothing to divide by.
    """
    hits = np.diag(counts)
    first = BACKGROUND + 1
    groups = {
        "background": slice(BACKGROUND, first),
        "foreground": slice(first, len(counts)),
        "all": slice(0, len(counts)),
    }
    total = counts.sum()
    return {
        name: {
            "coverage": _divide(counts[:, columns].sum(), total),
            "precision": _divide(hits[columns].sum(), counts[:, columns].sum()),
            "recall": _divide(hits[columns].sum(), counts[columns].sum()),
        }
        for name, columns in groups.items()
    }


def score_classifier(scores: NDArray[np.float32], image_labels: NDArray[np.bool_]) -> dict[str, float]:
    """Score a multi-label classifier.

    Parameters
    ----------
    scores : (N, K) float32
        Any monotone score: logits or probabilities.
    image_labels : (N, K) bool

    Returns
    -------
    dict
        ``map``: mean of `compute_average_precision` over classes with a positive picture;
        ``accuracy``: share of the pictures with exactly one label whose highest score is that
        class; ``top1``: share of the pictures with any label whose highest score is one of them.
        NaN without such pictures.
    """
    ap = compute_average_precision(scores, image_labels)
    known = ap[~np.isnan(ap)]
    labelled: NDArray[np.bool_] = np.asarray(image_labels.any(axis=1))
    single = image_labels.sum(axis=1) == 1
    best = scores.argmax(axis=1) if scores.size else np.zeros(len(scores), np.int64)
    hit: NDArray[np.bool_] = image_labels[np.arange(len(scores)), best]
    return {
        "map": float(known.mean()) if known.size else float("nan"),
        "accuracy": _divide(hit[single].sum(), single.sum()),
        "top1": _divide(hit[labelled].sum(), labelled.sum()),
    }


def compute_average_precision(
    scores: NDArray[np.float32], image_labels: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Compute each class's average precision over pictures.

    Parameters
    ----------
    scores : (N, K) float32
    image_labels : (N, K) bool

    Returns
    -------
    (K,) float64
        NaN for a class without a positive picture.
    """
    if scores.shape != image_labels.shape or scores.ndim != 2:
        raise ValueError(
            f"`scores` must be (N, K) like `image_labels` {image_labels.shape}, got {scores.shape}."
        )
    # Imported here, because workers that only count pixels need no torch.
    import torch
    from torchmetrics.functional.classification import binary_average_precision

    ap = np.full(scores.shape[1], np.nan)
    for k in np.flatnonzero(image_labels.any(axis=0)):
        column = torch.from_numpy(np.ascontiguousarray(scores[:, k], np.float32))
        ap[k] = float(binary_average_precision(column, torch.from_numpy(image_labels[:, k].astype(np.int64))))
    return ap


def _divide(part: np.integer | int, whole: np.integer | int) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _check_ids(name: str, ids: NDArray[np.int64], limit: int) -> None:
    if ids.size and int(ids.max()) >= limit:
        raise ValueError(
            f"`{name}` must hold ids below the number of classes, or {IGNORE_INDEX}, got {int(ids.max())}."
        )
