"""Region growing as plain Python loops: the rule read aloud, for comparison only.

The tests hold `dsrg.growing.grow_seeds` to this, and ``bench/growing.py`` times both. It works the
way the official code does: one pass per class over every pixel, two-pass component labelling with
union-find, no compiled code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Find = dict[int, int]


def label_pixels(
    cues: NDArray[np.bool_],
    probs: NDArray[np.float32],
    present: NDArray[np.int64],
    *,
    fg_threshold: float,
    bg_threshold: float,
) -> NDArray[np.int64]:
    """Label each pixel with its confident class, else its highest cue, else -1: (h, w) int64."""
    classes, height, width = cues.shape
    label = np.full((height, width), -1, np.int64)
    for row in range(height):
        for col in range(width):
            for c in range(classes):
                if cues[c, row, col]:
                    label[row, col] = c
            best = present[0]
            for c in present:
                if probs[c, row, col] > probs[best, row, col]:
                    best = c
            top = probs[best, row, col]
            if top > np.float32(fg_threshold) and (best != 0 or top > np.float32(bg_threshold)):
                label[row, col] = best
    return label


def label_regions(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the 8-connected regions of `inside` from 1; 0 outside: (h, w) int64."""
    height, width = inside.shape
    number = np.zeros((height, width), np.int64)
    parent: Find = {}
    for row in range(height):
        for col in range(width):
            if not inside[row, col]:
                continue
            before = []
            for r, c in ((row, col - 1), (row - 1, col - 1), (row - 1, col), (row - 1, col + 1)):
                if r >= 0 and 0 <= c < width and number[r, c]:
                    before.append(number[r, c])
            if not before:
                number[row, col] = len(parent) + 1
                parent[len(parent) + 1] = len(parent) + 1
                continue
            roots = [_find(parent, n) for n in before]
            number[row, col] = min(roots)
            for root in roots:
                parent[root] = min(roots)
    for row in range(height):
        for col in range(width):
            if number[row, col]:
                number[row, col] = _find(parent, number[row, col])
    return number


def _find(parent: Find, n: int) -> int:
    while parent[n] != n:
        n = parent[n]
    return n


def grow_slowly(
    cues: NDArray[np.bool_],
    probs: NDArray[np.float32],
    present: NDArray[np.int64],
    *,
    fg_threshold: float,
    bg_threshold: float,
) -> NDArray[np.bool_]:
    """Grow seeds by the rule of `dsrg.growing.grow_seeds`, one Python loop per class and pixel."""
    _, height, width = cues.shape
    label = label_pixels(cues, probs, present, fg_threshold=fg_threshold, bg_threshold=bg_threshold)
    seeds = cues.copy()
    for c in present:
        number = label_regions(label == c)
        alive = set()
        for row in range(height):
            for col in range(width):
                if number[row, col] and cues[c, row, col]:
                    alive.add(number[row, col])
        for row in range(height):
            for col in range(width):
                if number[row, col] in alive:
                    foreign = not cues[c, row, col] and cues[:, row, col].sum() == 1
                    if not foreign:
                        seeds[c, row, col] = True
    return seeds


def grow_with_scipy(
    cues: NDArray[np.bool_],
    probs: NDArray[np.float32],
    present: NDArray[np.int64],
    *,
    fg_threshold: float,
    bg_threshold: float,
) -> NDArray[np.bool_]:
    """Grow seeds by the same rule with NumPy and `scipy.ndimage.label`, once per class."""
    own = probs[present]
    order = own.argmax(axis=0)
    top = np.take_along_axis(own, order[None], axis=0)[0]
    best = present[order]
    confident = (top > np.float32(fg_threshold)) & ((best != 0) | (top > np.float32(bg_threshold)))
    counts = cues.sum(axis=0)
    highest = cues.shape[0] - 1 - np.argmax(cues[::-1], axis=0)
    label = np.where(confident, best, np.where(counts > 0, highest, -1))
    seeds = cues.copy()
    for c in present:
        number, found = ndimage.label(label == c, structure=np.ones((3, 3)))
        alive = np.zeros(found + 1, bool)
        alive[number[cues[c]]] = True
        alive[0] = False
        seeds[c] |= alive[number] & (cues[c] | (counts != 1))
    return seeds
