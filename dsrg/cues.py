"""Cues: the few pixels whose class the CAMs let us trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from dsrg.cam import add_background
from dsrg.crf import refine_stack
from dsrg.labels import BACKGROUND, IGNORE_INDEX


def pick_by_threshold(
    cams: NDArray[np.float32], present: NDArray[np.int64], *, fg_threshold: float, bg_threshold: float
) -> NDArray[np.uint8]:
    """Pick cues by thresholds on the CAMs, as SEC and DSRG do.

    Parameters
    ----------
    cams : (P - 1, H, W) float32
        CAMs in [0, 1] of the present foreground classes. Not modified.
    present : (P,) int64
        Class ids, background first.
    fg_threshold : float
        A pixel becomes a cue of the class whose CAM is largest there and over this. Ties go to the
        lower class.
    bg_threshold : float
        A pixel becomes a background cue where the largest CAM is under this.

    Returns
    -------
    (H, W) uint8
        255 where no rule holds. A picture without classes is background everywhere: its labels say so.
    """
    if not 0 <= bg_threshold <= fg_threshold <= 1:
        raise ValueError(
            "`bg_threshold` must not be over `fg_threshold`, both in [0, 1], "
            f"got {bg_threshold} and {fg_threshold}"
        )
    if len(present) == 1:
        return np.full(cams.shape[1:], BACKGROUND, np.uint8)
    largest = cams.max(axis=0)
    winner = present[1:][cams.argmax(axis=0)]
    cue = np.full(largest.shape, IGNORE_INDEX, np.uint8)
    cue[largest < bg_threshold] = BACKGROUND
    over = largest > fg_threshold
    cue[over] = winner[over]
    return cue


def sharpen_cams(
    cams: NDArray[np.float32],
    image: NDArray[np.uint8],
    present: NDArray[np.int64],
    *,
    exponents: Sequence[float],
    crf: Mapping[str, Any],
) -> NDArray[np.uint8]:
    """Sharpen CAMs to label maps: background is ``(1 - largest CAM) ** exponent``, then a CRF.

    Parameters
    ----------
    cams : (P - 1, H, W) float32
        In [0, 1]. Not modified.
    image : (H, W, 3) uint8
    present : (P,) int64
    exponents : sequence of E float
        Over 0. A large one shrinks the background's score and so is generous to the foreground.
    crf : mapping
        Keyword values of :func:`dsrg.crf.refine_probs`, in pixels.

    Returns
    -------
    (E, H, W) uint8
        One label map for each exponent; no pixel is left unlabelled.

    References
    ----------
    .. [1] Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for
       Weakly Supervised Semantic Segmentation", CVPR 2018 (background score and its two exponents).
    """
    if len(present) == 1:
        return np.full((len(exponents), *image.shape[:2]), BACKGROUND, np.uint8)
    scores = np.stack([add_background(cams, exponent=exponent) for exponent in exponents])
    probs = scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-5)
    refined = refine_stack(probs, image, **crf)
    label_maps: NDArray[np.uint8] = present[refined.argmax(axis=1)].astype(np.uint8)
    return label_maps


def choose_exponent(histogram: NDArray[np.int64]) -> float:
    """Choose the background exponent from the CAMs alone, by Otsu's rule.

    Otsu's threshold ``t`` splits the largest CAM values of a data set into two groups that differ
    most. The exponent returned makes background and foreground equally likely there:
    ``(1 - t) ** exponent = t``. No truth is needed, and the rule follows the CAMs' resolution:
    blurred CAMs get a higher threshold, sharp ones a lower.

    Parameters
    ----------
    histogram : (M,) int64
        Counts of the largest CAM values, in `M` equal bins over [0, 1].

    Returns
    -------
    float
        In [0.25, 8]; 2.0 where the CAMs hold fewer than two values.

    References
    ----------
    .. [1] Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Trans. SMC 1979.

    Examples
    --------
    >>> round(choose_exponent(np.array([50, 0, 0, 0, 0, 0, 0, 50])), 2) > 0
    True
    """
    if np.count_nonzero(histogram) < 2:
        return 2.0
    centres = (np.arange(len(histogram)) + 0.5) / len(histogram)
    threshold = float(threshold_otsu(hist=(histogram, centres)))
    threshold = min(max(threshold, 0.05), 0.95)
    return float(np.clip(np.log(threshold) / np.log1p(-threshold), 0.25, 8.0))


def pick_by_agreement(
    cams: NDArray[np.float32],
    image: NDArray[np.uint8],
    present: NDArray[np.int64],
    *,
    exponent: float,
    spread: float,
    crf: Mapping[str, Any],
) -> NDArray[np.uint8]:
    """Pick the pixels on which a generous and a strict sharpening of the CAMs agree.

    What even the strict one calls an object is foreground; what even the generous one calls
    background is background; between them nothing is known.

    Parameters
    ----------
    cams, image, present, crf
        As for :func:`sharpen_cams`.
    exponent : float
        Over 0; :func:`choose_exponent` finds one without truth.
    spread : float
        At least 1: the generous exponent is ``exponent * spread``, the strict one ``exponent / spread``.

    Returns
    -------
    (H, W) uint8
        255 where the two disagree. A present class that would get no cue at all gets the peak of
        its CAM (the connected pixels over 0.9 of its maximum): its label says that it is there.
    """
    if spread < 1:
        raise ValueError(f"`spread` must be at least 1, got {spread}")
    exponents = (exponent * spread, exponent / spread)
    generous, strict = sharpen_cams(cams, image, present, exponents=exponents, crf=crf)
    cue = np.where(generous == strict, generous, IGNORE_INDEX).astype(np.uint8)
    for class_id, cam in zip(present[1:], cams, strict=True):
        if not (cue == class_id).any():
            mark_peak(cue, cam, int(class_id))
    return cue


def take_background(
    cue: NDArray[np.uint8],
    saliency: NDArray[np.uint8],
    present: NDArray[np.int64],
    *,
    saliency_threshold: float,
) -> NDArray[np.uint8]:
    """Take the background cues from a saliency map instead of the CAMs, as SEC and DSRG do.

    Parameters
    ----------
    cue : (H, W) uint8
        Cues picked by another rule: their foreground stays. Not modified.
    saliency : (H, W) uint8
        255 where an object is certain, and where nothing is known.
    present : (P,) int64
        Class ids, background first; a picture without classes stays as it is.
    saliency_threshold : float
        In (0, 1): background where the saliency is under this share of 255.

    Returns
    -------
    (H, W) uint8
    """
    if len(present) == 1:
        return cue
    foreground = (cue != BACKGROUND) & (cue != IGNORE_INDEX)
    background = np.where(saliency < saliency_threshold * 255, BACKGROUND, IGNORE_INDEX)
    return np.where(foreground, cue, background).astype(np.uint8)


def mark_peak(cue: NDArray[np.uint8], cam: NDArray[np.float32], class_id: int) -> None:
    """Mark the connected pixels around a CAM's maximum, in place; a CAM of zeros marks nothing.

    Pixels of another object are taken only where the peak lies on nothing else.
    """
    if cam.max() <= 0:
        return
    components, _ = ndimage.label(cam >= 0.9 * cam.max())
    peak = components == components.flat[int(cam.argmax())]
    free = peak & ((cue == BACKGROUND) | (cue == IGNORE_INDEX))
    cue[free if free.any() else peak] = class_id
