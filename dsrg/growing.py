"""Region growing: seeds spread from trusted cues over confident, connected pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.growing_kernels import GROWN, NO_IDS, grow_map, grow_planes

MAX_CLASSES = 255
# compared with a dtype these take a tenth of the time of the types they are made of
_BOOL, _FLOAT32, _INT64 = np.dtype(np.bool_), np.dtype(np.float32), np.dtype(np.int64)


def grow_seeds(
    cues: NDArray[np.bool_],
    probs: NDArray[np.float32],
    present: NDArray[np.int64],
    *,
    fg_threshold: float,
    bg_threshold: float,
) -> NDArray[np.bool_]:
    """Grow seeds from cues by joining confident pixels that are connected to a cue of their class.

    Every pixel first gets one label. Where the largest probability among the present classes is
    over `fg_threshold` (and, if it is background's, over `bg_threshold` too), the label is that
    class, even on a cue of another class. Elsewhere it is the class of the pixel's cue, or none.
    Then each 8-connected region of one label is looked at: if one of its pixels is a cue of the
    region's own class, every pixel of the region becomes a seed of that class, except those that
    are a cue of exactly one other class; through these the region still connects.

    Ties between probabilities go to the lowest class. Both comparisons are strict, in float32.
    A pixel with cues of several classes is labelled with the highest of them. A region of an
    absent class is not grown. Cues are never removed, so a pixel can be a seed of two classes.

    Parameters
    ----------
    cues : (C, h, w) bool
        Trusted pixels per class, background first; `C` at most 255. Not modified.
    probs : (C, h, w) float32
        Class probabilities. Planes of absent classes are not read. Not modified.
    present : (P,) int64
        Ids of the classes that may grow, ascending; normally with background (0).
    fg_threshold, bg_threshold : float
        In (0, 1). Official: 0.85 and 0.99 on probabilities refined by the CRF.

    Returns
    -------
    (C, h, w) bool
        The cues and everything they grew into.

    Raises
    ------
    TypeError
        An array is of another dtype.
    ValueError
        Shapes differ, a class id is out of range, a threshold is out of (0, 1), or a probability
        of a present class is not a number.

    Notes
    -----
    Equal to the official code on all cases of ``tests/golden/growing_official.npz``. Classes
    never meet in one region, so one union-find pass over the single label map does the work of
    the official one pass per class. Raising `fg_threshold` may add seeds: a pixel that is no
    longer confident falls back to its cue, and can connect a region of that class.

    References
    ----------
    Huang et al., "Weakly-Supervised Semantic Segmentation Network with Deep Seeded Region
    Growing", CVPR 2018, section 3.3; `generate_seed_step` in the authors' ``pylayers.py``.

    Examples
    --------
    >>> cues = np.array([[[0, 0, 0, 0]], [[1, 0, 0, 0]]], bool)
    >>> probs = np.array([[[0.1, 0.1, 0.6, 0.1]], [[0.9, 0.9, 0.4, 0.9]]], np.float32)
    >>> grow_seeds(cues, probs, np.array([0, 1]), fg_threshold=0.85, bg_threshold=0.99)[1].astype(int)
    array([[1, 1, 0, 0]])
    """
    shape = _check_planes(cues, probs)
    ids = _take_ids(present)
    fg, bg = _check_thresholds(fg_threshold, bg_threshold)
    seeds = np.empty(shape, _BOOL)
    found = grow_planes(_lay_out(cues), _lay_out(probs), ids, fg, bg, seeds)
    if found != GROWN:
        raise _report_ids(ids, shape[0]) if found == NO_IDS else _report_nan(probs[ids])
    return seeds


def grow_seeds_batch(
    cues: NDArray[np.bool_],
    probs: NDArray[np.float32],
    presents: Sequence[NDArray[np.int64]],
    *,
    fg_threshold: float,
    bg_threshold: float,
) -> NDArray[np.bool_]:
    """Grow the seeds of every image of a batch; see `grow_seeds`.

    Parameters
    ----------
    cues : (B, C, h, w) bool
    probs : (B, C, h, w) float32
    presents : sequence of B (P,) int64

    Returns
    -------
    (B, C, h, w) bool
    """
    if not len(cues) == len(probs) == len(presents):
        raise ValueError(
            "`cues`, `probs` and `presents` must have one entry per image, "
            f"got {len(cues)}, {len(probs)} and {len(presents)}."
        )
    seeds = np.empty(cues.shape, np.bool_)
    for number, present in enumerate(presents):
        seeds[number] = grow_seeds(
            cues[number], probs[number], present, fg_threshold=fg_threshold, bg_threshold=bg_threshold
        )
    return seeds


def grow_label_map(
    cue: NDArray[np.uint8],
    probs: NDArray[np.float32],
    present: NDArray[np.int64],
    *,
    fg_threshold: float,
    bg_threshold: float,
) -> NDArray[np.uint8]:
    """Grow cues of one class per pixel, given and returned as a label map; see `grow_seeds`.

    The same rule in the form that suits whole pictures: no planes of absent classes. With one
    class per pixel a cue always keeps its class, so the result has one class per pixel again.

    Parameters
    ----------
    cue : (h, w) uint8
        Class ids, 255 where unlabelled. Not modified.
    probs : (P, h, w) float32
        Probabilities of the present classes only, in the order of `present`. Not modified.
    present : (P,) int64
        Ids of the classes that may grow, ascending.
    fg_threshold, bg_threshold : float
        In (0, 1).

    Returns
    -------
    (h, w) uint8
        Seeds: class ids, 255 where unlabelled.

    Raises
    ------
    TypeError, ValueError
        As `grow_seeds`.

    Examples
    --------
    >>> cue = np.array([[2, 255, 255, 0]], np.uint8)
    >>> probs = np.array([[[0.1, 0.1, 0.5, 1.0]], [[0.9, 0.9, 0.5, 0.0]]], np.float32)
    >>> grow_label_map(cue, probs, np.array([0, 2]), fg_threshold=0.85, bg_threshold=0.99)
    array([[  2,   2, 255,   0]], dtype=uint8)
    """
    if cue.dtype != np.uint8 or cue.ndim != 2:
        raise TypeError(f"`cue` must be (h, w) uint8, got {cue.shape} {cue.dtype}.")
    _check_probs(probs)
    ids = _take_ids(present)
    if probs.shape != (ids.size, *cue.shape):
        raise ValueError(
            f"`probs` must have one plane of the shape of `cue` per present class, "
            f"{(ids.size, *cue.shape)}, got {probs.shape}."
        )
    fg, bg = _check_thresholds(fg_threshold, bg_threshold)
    seed = np.array(cue, order="C", copy=True)
    found = grow_map(seed, _lay_out(probs), ids, fg, bg)
    if found != GROWN:
        raise _report_ids(ids, MAX_CLASSES) if found == NO_IDS else _report_nan(probs)
    return seed


# -- checks ------------------------------------------------------------------------------------


def _check_planes(cues: NDArray[np.bool_], probs: NDArray[np.float32]) -> tuple[int, ...]:
    if cues.dtype != _BOOL:
        raise TypeError(f"`cues` must be bool, got {cues.dtype}: pass `cues > 0`.")
    _check_probs(probs)
    shape = cues.shape
    if len(shape) != 3 or shape != probs.shape:
        raise ValueError(f"`cues` and `probs` must have one shape (C, h, w), got {shape} and {probs.shape}.")
    if not 1 <= shape[0] <= MAX_CLASSES:
        raise ValueError(f"`cues` must have 1 to {MAX_CLASSES} classes, got {shape[0]}.")
    return shape


def _check_probs(probs: NDArray[np.float32]) -> None:
    if probs.dtype != _FLOAT32:
        raise TypeError(f"`probs` must be float32, got {probs.dtype}: pass `probs.astype(np.float32)`.")


def _take_ids(present: NDArray[np.int64]) -> NDArray[np.int64]:
    """Take class ids as the kernels want them, which look at their values."""
    ids = np.asarray(present)
    if ids.dtype == _INT64 and ids.ndim == 1 and ids.size:  # most often: nothing else need be asked
        return ids
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(f"`present` must be (P,) class ids, at least one, got {present!r}.")
    return ids.astype(_INT64)


def _report_ids(ids: NDArray[np.int64], num_classes: int) -> ValueError:
    return ValueError(f"`present` must be ascending class ids in [0, {num_classes}), got {ids.tolist()}.")


def _lay_out(array: NDArray[Any]) -> NDArray[Any]:
    """Lay an array out in C's order; asking first takes half the time."""
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _check_thresholds(fg_threshold: float, bg_threshold: float) -> tuple[float, float]:
    if not 0.0 < fg_threshold < 1.0:
        raise ValueError(f"`fg_threshold` must be in (0, 1), got {fg_threshold}.")
    if not 0.0 < bg_threshold < 1.0:
        raise ValueError(f"`bg_threshold` must be in (0, 1), got {bg_threshold}.")
    return float(fg_threshold), float(bg_threshold)


def _report_nan(probs: NDArray[np.float32]) -> ValueError:
    count = int(np.isnan(probs).sum())
    return ValueError(f"`probs` must be numbers, got {count} NaN in the planes of present classes.")
