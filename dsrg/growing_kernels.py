"""Region growing, compiled: one fused pass over label map, components and seeds; no checks.

Called by :mod:`dsrg.growing` only, which says what the rule is.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dsrg.labels import IGNORE_INDEX


@njit(cache=True, nogil=True)
def grow_planes(
    seeds: NDArray[np.bool_],
    probs: NDArray[np.float32],
    present: NDArray[np.int64],
    fg: np.float32,
    bg: np.float32,
) -> bool:
    """Grow `seeds` (the cues) in place; False if a probability is NaN."""
    num_classes, height, width = seeds.shape
    count = height * width
    planes = seeds.reshape(num_classes, count)
    none = np.uint8(IGNORE_INDEX)
    growable = _list_growable(present)
    # Two bytes a pixel hold all the rule asks of the cues: the highest class (if it may grow), and
    # how many. These loops and the next have no branches, so that they run many pixels at a time.
    highest = np.full(count, none, np.uint8)
    cue_count = np.zeros(count, np.uint8)
    for c in range(num_classes):
        plane = planes[c]
        c8 = growable[c]
        for i in range(count):
            highest[i] = c8 if plane[i] else highest[i]
            cue_count[i] += np.uint8(plane[i])
    label = np.empty(count, np.uint8)
    if not _label_confident(label, probs.reshape(num_classes, count), present, present, fg, bg):
        return False
    source = np.empty(count, np.bool_)
    most = np.uint8(0)
    for i in range(count):
        c8 = label[i] if label[i] != none else highest[i]
        label[i] = c8
        source[i] = c8 == highest[i]
        most = max(most, cue_count[i])
    if most > 1:
        for i in range(count):
            if cue_count[i] > 1 and label[i] != none:
                source[i] = planes[label[i], i]
    starts, ends, kept, runs = _find_runs(label, source, height, width)
    for run in range(runs):
        if kept[run]:
            plane = planes[label[starts[run]]]
            for i in range(starts[run], ends[run]):
                plane[i] |= cue_count[i] != 1
    return True


@njit(cache=True, nogil=True)
def grow_map(
    seed: NDArray[np.uint8],
    probs: NDArray[np.float32],
    present: NDArray[np.int64],
    fg: np.float32,
    bg: np.float32,
) -> bool:
    """Grow `seed` (the cue map) in place; False if a probability is NaN."""
    height, width = seed.shape
    count = height * width
    flat = seed.reshape(count)
    none = np.uint8(IGNORE_INDEX)
    growable = _list_growable(present)
    label = np.empty(count, np.uint8)
    order = np.arange(present.size)
    if not _label_confident(label, probs.reshape(present.size, count), order, present, fg, bg):
        return False
    source = np.empty(count, np.bool_)
    for i in range(count):
        own = growable[flat[i]]
        c8 = label[i] if label[i] != none else own
        label[i] = c8
        source[i] = c8 == own
    starts, ends, kept, runs = _find_runs(label, source, height, width)
    for run in range(runs):
        if kept[run]:
            c8 = label[starts[run]]
            for i in range(starts[run], ends[run]):
                flat[i] = c8 if flat[i] == none else flat[i]
    return True


@njit(cache=True, nogil=True)
def _list_growable(present: NDArray[np.int64]) -> NDArray[np.uint8]:
    """List each class id's own id if it is present, else 255."""
    growable = np.full(256, IGNORE_INDEX, np.uint8)
    for k in range(present.size):
        growable[present[k]] = present[k]
    return growable


@njit(cache=True, nogil=True)
def _label_confident(
    label: NDArray[np.uint8],
    probs: NDArray[np.float32],
    planes: NDArray[np.int64],
    ids: NDArray[np.int64],
    fg: np.float32,
    bg: np.float32,
) -> bool:
    """Fill `label` with the largest class where it is confident; False if a value is NaN."""
    count = label.size
    best = probs[planes[0]].copy()
    best_id = np.full(count, ids[0], np.int32)
    bad = np.int32(0)
    for i in range(count):
        bad += np.int32(best[i] != best[i])
    for k in range(1, planes.size):
        plane = probs[planes[k]]
        c32 = np.int32(ids[k])
        for i in range(count):
            value = plane[i]
            larger = value > best[i]
            best_id[i] = c32 if larger else best_id[i]
            best[i] = value if larger else best[i]
            bad += np.int32(value != value)
    none = np.int32(IGNORE_INDEX)
    for i in range(count):
        confident = (best[i] > fg) & ((best_id[i] != 0) | (best[i] > bg))
        label[i] = best_id[i] if confident else none
    return bool(bad == 0)


@njit(cache=True, nogil=True)
def _find_runs(
    label: NDArray[np.uint8], source: NDArray[np.bool_], height: int, width: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_], int]:
    """Find the horizontal runs of one label, and which lie in an 8-connected region with a source.

    Union-find over runs, which are far fewer than pixels. Returns first pixel, end, verdict and
    number of runs; unlabelled runs are left out.
    """
    starts = np.empty(label.size, np.int32)
    ends = np.empty(label.size, np.int32)
    parent = np.empty(label.size, np.int32)
    alive = np.zeros(label.size, np.bool_)
    runs = above = above_end = 0
    for row in range(height):
        first = runs
        i, stop = row * width, (row + 1) * width
        while i < stop:
            c = label[i]
            start = i
            found = False
            while i < stop and label[i] == c:
                found |= source[i]
                i += 1
            if c == IGNORE_INDEX:
                continue
            starts[runs], ends[runs], parent[runs], alive[runs] = start, i, runs, found
            # Both rows go from left to right: what ends before this run touches no later one.
            while above < above_end and ends[above] + width < start:
                above += 1
            other = above
            while other < above_end and starts[other] + width <= i:
                if label[starts[other]] == c:
                    _join_runs(parent, alive, other, runs)
                other += 1
            runs += 1
        above, above_end = first, runs
    kept = np.empty(runs, np.bool_)
    for run in range(runs):
        parent[run] = parent[parent[run]]  # parents come first, so this is the root
        kept[run] = alive[parent[run]]
    return starts, ends, kept, runs


@njit(cache=True, nogil=True)
def _join_runs(parent: NDArray[np.int32], alive: NDArray[np.bool_], one: int, two: int) -> None:
    """Join two regions under the earlier root, halving the paths on the way."""
    while parent[one] != one:
        parent[one] = parent[parent[one]]
        one = parent[one]
    while parent[two] != two:
        parent[two] = parent[parent[two]]
        two = parent[two]
    root = min(one, two)
    parent[max(one, two)] = root
    alive[root] = alive[one] or alive[two]
