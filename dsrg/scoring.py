"""Scoring of CAMs, partial labels and predictions, one picture at a time; counts add up.

Nothing here chooses anything that training uses: where a threshold or an exponent is picked, it is
picked by the truth, to say what the best choice could have reached, and is named an oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.cam import add_background
from dsrg.crf import refine_probs, refine_stack
from dsrg.labels import BACKGROUND
from dsrg.metrics import POLICIES, compute_iou, count_pixels, mean_iou, settle_unlabelled, summarise_quality


def sweep_thresholds(
    cams: NDArray[np.float32],
    ids: NDArray[np.int64],
    gt_label: NDArray[np.uint8],
    *,
    thresholds: Sequence[float],
    num_classes: int,
) -> NDArray[np.int64]:
    """Count one picture's pixels under each threshold: the largest CAM's class over it, else background.

    Parameters
    ----------
    cams : (F, H, W) float32
        At the size of the truth.
    ids : (F,) int64
        Their class ids.
    gt_label : (H, W) uint8
    thresholds : sequence of T float
    num_classes : int

    Returns
    -------
    (T, C, C + 1) int64
    """
    best = ids[cams.argmax(axis=0)].astype(np.uint8) if len(cams) else np.zeros_like(gt_label)
    peak = cams.max(axis=0) if len(cams) else np.zeros(gt_label.shape, np.float32)
    maps = [np.where(peak > np.float32(threshold), best, np.uint8(BACKGROUND)) for threshold in thresholds]
    return np.stack([count_pixels(gt_label, label_map, num_classes=num_classes) for label_map in maps])


def sweep_exponents(
    cams: NDArray[np.float32],
    ids: NDArray[np.int64],
    image: NDArray[np.uint8],
    gt_label: NDArray[np.uint8],
    *,
    exponents: Sequence[float],
    num_classes: int,
    crf: dict[str, Any],
) -> NDArray[np.int64]:
    """Count one picture's pixels after a CRF over CAMs with each background exponent.

    Parameters
    ----------
    cams, ids, gt_label
        As in `sweep_thresholds`.
    image : (H, W, 3) uint8
    exponents : sequence of E float
        See `add_background`.
    crf : dict
        Settings of `dsrg.crf.refine_probs`.

    Returns
    -------
    (E, C, C + 1) int64
    """
    present = np.concatenate([[BACKGROUND], ids]).astype(np.uint8)
    stack = np.stack([add_background(cams, exponent=exponent) for exponent in exponents])
    label_maps = present[refine_stack(stack, image, **crf).argmax(axis=1)]
    return np.stack([count_pixels(gt_label, label_map, num_classes=num_classes) for label_map in label_maps])


def list_likely(probs: NDArray[np.float32], *, min_peak: float) -> NDArray[np.int64]:
    """List the classes worth a CRF: background, and those whose probability exceeds `min_peak` somewhere.

    Parameters
    ----------
    probs : (C, H, W) float32
    min_peak : float

    Returns
    -------
    (P,) int64
        Ascending, 0 included.
    """
    likely = probs.max(axis=(1, 2)) > min_peak
    likely[BACKGROUND] = True
    return np.flatnonzero(likely)


def refine_prediction(
    probs: NDArray[np.float32], ids: NDArray[np.int64], image: NDArray[np.uint8], *, crf: dict[str, Any]
) -> NDArray[np.uint8]:
    """Refine a prediction by a CRF over some of its classes.

    Parameters
    ----------
    probs : (P, H, W) float32
        Probabilities of the classes `ids`.
    ids : (P,) int64
    image : (H, W, 3) uint8
    crf : dict
        Settings of `dsrg.crf.refine_probs`.

    Returns
    -------
    (H, W) uint8
        Class ids.
    """
    refined = refine_probs(probs, image, **crf)
    pred_label: NDArray[np.uint8] = ids.astype(np.uint8)[refined.argmax(axis=0)]
    return pred_label


def summarise_labels(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Summarise partial labels of a split: quality, and IoU under both policies for unlabelled pixels.

    Parameters
    ----------
    counts : (C, C + 1) int64
    classes : sequence of K str
        Foreground classes.

    Returns
    -------
    dict
        ``background``, ``foreground``, ``all`` with coverage, precision and recall;
        ``unlabelled_as_background`` and ``unlabelled_excluded`` with ``miou`` and ``iou`` per class;
        ``counts``.
    """
    summary: dict[str, Any] = {**summarise_quality(counts), "counts": counts.tolist()}
    for policy in POLICIES:
        key = "unlabelled_as_background" if policy == "background" else "unlabelled_excluded"
        summary[key] = summarise_confusion(settle_unlabelled(counts, unlabelled=policy), classes)
    return summary


def summarise_confusion(confusion: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Summarise a confusion as ``miou`` and ``iou`` by class name, background first.

    Parameters
    ----------
    confusion : (C, C) int64
    classes : sequence of K str

    Returns
    -------
    dict
    """
    names = ["background", *classes]
    iou = compute_iou(confusion)
    return {"miou": mean_iou(confusion), "iou": dict(zip(names, iou.tolist(), strict=True))}


def summarise_predictions(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Summarise complete label maps of a split: ``miou``, ``iou``, ``pixel_accuracy``, ``confusion``.

    Parameters
    ----------
    counts : (C, C + 1) int64
        Unlabelled pixels, if any, count as background.
    classes : sequence of K str

    Returns
    -------
    dict
    """
    confusion = settle_unlabelled(counts, unlabelled="background")
    total = int(confusion.sum())
    accuracy = float(np.trace(confusion)) / total if total else float("nan")
    return {
        **summarise_confusion(confusion, classes),
        "pixel_accuracy": accuracy,
        "confusion": confusion.tolist(),
    }
