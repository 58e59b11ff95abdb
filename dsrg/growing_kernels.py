"""Region growing, compiled: one fused pass over label map, components and seeds; no checks.

Called by :mod:`dsrg.growing` only, which says what the rule is.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dsrg.labels import IGNORE_INDEX

GROWN, HAS_NAN, NO_IDS = 0, 1, 2
_BLOCK = 1024  # pixels at a time: what is kept of them between two planes stays in the fastest cache


@njit(cache=True, nogil=True)
def grow_planes(
    cues: NDArray[np.bool_],
    probs: NDArray[np.float32],
    present: NDArray[np.int64],
    fg: float,
    bg: float,
    seeds: NDArray[np.bool_],
) -> int:
    """Grow `cues` into `seeds`; answers what is wrong with its arguments. All arrays are contiguous."""
    num_classes, height, width = seeds.shape
    if not _ascend(present, num_classes):
        return NO_IDS
    count = height * width
    planes = seeds.reshape(num_classes, count).view(np.uint8)
    given = cues.reshape(num_classes, count).view(np.uint8)
    growable = _list_growable(present)
    # Two bytes a pixel hold all the rule asks of the cues: the highest class (if it may grow), and how many.
    room = np.empty((4, count), np.uint8)  # at once, as asking for memory takes its time
    highest, cue_count, label, source = room[0], room[1], room[2], room[3]
    for i in range(count):
        highest[i] = IGNORE_INDEX
        cue_count[i] = 0
    filled = _copy_planes(given, planes)
    for c in range(num_classes):
        if filled[c]:
            _note_cues(planes[c], growable[c], highest, cue_count)
    if not _label_confident(label, probs.reshape(num_classes, count), present, present, fg, bg):
        return HAS_NAN
    _fall_back(label, highest, source)
    if _find_largest(cue_count) > 1:
        for i in range(count):
            if cue_count[i] > 1 and label[i] != IGNORE_INDEX:
                source[i] = planes[label[i], i]
    starts, ends, kept, runs = _find_runs(label, source, height, width)
    for run in range(runs):
        if kept[run]:
            _fill_run(planes, label[starts[run]], starts[run], ends[run], cue_count)
    return GROWN


@njit(cache=True, nogil=True)
def _ascend(ids: NDArray[np.int64], count: int) -> bool:
    """Whether ids ascend within [0, count)."""
    before = np.int64(-1)
    for k in range(ids.size):
        if not before < ids[k] < count:
            return False
        before = ids[k]
    return True


@njit(cache=True, nogil=True)
def _copy_planes(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copy all planes; say in which of them anything is set."""
    filled = np.empty(len(source), np.uint8)
    for c in range(len(source)):
        plane, copy = source[c], target[c]
        some = np.uint8(0)
        for i in range(plane.size):
            copy[i] = plane[i]
            some |= plane[i]
        filled[c] = some
    return filled


@njit(cache=True, nogil=True)
def _note_cues(
    plane: NDArray[np.uint8], own: np.uint8, highest: NDArray[np.uint8], cue_count: NDArray[np.uint8]
) -> None:
    # chosen by bits: not every machine runs an `if` of bytes on many pixels at a time
    for i in range(plane.size):
        highest[i] ^= (highest[i] ^ own) & (np.uint8(0) - plane[i])
        cue_count[i] += plane[i]


@njit(cache=True, nogil=True)
def _find_largest(values: NDArray[np.uint8]) -> np.uint8:
    largest = np.uint8(0)
    for i in range(values.size):
        largest = max(largest, values[i])
    return largest


@njit(cache=True, nogil=True)
def _fill_run(
    planes: NDArray[np.uint8], c: np.uint8, start: np.int32, end: np.int32, cue_count: NDArray[np.uint8]
) -> None:
    """Make seeds of all pixels of a run but those that are a cue of exactly one, other, class."""
    for i in range(np.uint32(start), np.uint32(end)):  # what has no sign is not asked for its sign
        planes[c, i] |= np.uint8(cue_count[i] != 1)


@njit(cache=True, nogil=True)
def grow_map(
    seed: NDArray[np.uint8],
    probs: NDArray[np.float32],
    present: NDArray[np.int64],
    fg: float,
    bg: float,
) -> int:
    """Grow `seed` (the cue map) in place; returns what `grow_planes` does. All arrays are contiguous."""
    height, width = seed.shape
    if not _ascend(present, IGNORE_INDEX):
        return NO_IDS
    count = height * width
    flat = seed.reshape(count)
    growable = _list_growable(present)
    room = np.empty((3, count), np.uint8)
    label, source, own = room[0], room[1], room[2]
    order = np.arange(present.size)
    if not _label_confident(label, probs.reshape(present.size, count), order, present, fg, bg):
        return HAS_NAN
    for i in range(count):
        own[i] = growable[flat[i]]
    _fall_back(label, own, source)
    starts, ends, kept, runs = _find_runs(label, source, height, width)
    for run in range(runs):
        if kept[run]:
            c8 = label[starts[run]]
            for i in range(starts[run], ends[run]):
                flat[i] = c8 if flat[i] == IGNORE_INDEX else flat[i]
    return GROWN


@njit(cache=True, nogil=True)
def _list_growable(present: NDArray[np.int64]) -> NDArray[np.uint8]:
    """List each class id's own id if it is present, else 255."""
    growable = np.full(256, IGNORE_INDEX, np.uint8)
    for k in range(present.size):
        growable[present[k]] = present[k]
    return growable


@njit(cache=True, nogil=True)
def _fall_back(label: NDArray[np.uint8], own: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
    """Label by their cue what is not confident; `source` becomes 1 where label and cue agree, else 0."""
    for i in range(label.size):
        unsure = np.uint8(0) - np.uint8(label[i] == IGNORE_INDEX)
        label[i] ^= (label[i] ^ own[i]) & unsure
        source[i] = np.uint8(label[i] == own[i])


@njit(cache=True, nogil=True)
def _label_confident(
    label: NDArray[np.uint8],
    probs: NDArray[np.float32],
    planes: NDArray[np.int64],
    ids: NDArray[np.int64],
    fg: float,
    bg: float,
) -> bool:
    """Fill `label` with the largest class where it is confident; False if a value is NaN."""
    room = np.empty((4, _BLOCK), np.float32)
    best, best_id = room[:2], room[2:].view(np.int32)
    bad = np.int32(0)
    for start in range(0, label.size, _BLOCK):
        out = label[start : start + _BLOCK]
        block = out.size
        for k in range(planes.size):
            plane = probs[planes[k], start : start + block]
            now, old = k % 2, (k + 1) % 2
            if k == 0:
                _take_first(plane, ids[k], best[now], best_id[now])
            else:
                _take_larger(plane, ids[k], best[old], best_id[old], best[now], best_id[now])
            bad |= _holds_nan(plane)
        last = (planes.size - 1) % 2
        _decide(best[last], best_id[last], np.float32(fg), np.float32(bg), best_id[1 - last], out)
    return bool(bad == 0)


@njit(cache=True, nogil=True)
def _take_first(
    plane: NDArray[np.float32], plane_id: np.int64, best: NDArray[np.float32], best_id: NDArray[np.int32]
) -> None:
    first_id = np.int32(plane_id)
    for i in range(plane.size):
        best[i] = plane[i]
        best_id[i] = first_id


@njit(cache=True, nogil=True)
def _take_larger(
    plane: NDArray[np.float32],
    plane_id: np.int64,
    best: NDArray[np.float32],
    best_id: NDArray[np.int32],
    larger: NDArray[np.float32],
    larger_id: NDArray[np.int32],
) -> None:
    # What is loaded or stored only under a condition is slow on some machines: nothing is.
    new_id = np.int32(plane_id)
    for i in range(plane.size):
        new, old, old_id = plane[i], best[i], best_id[i]
        larger_id[i] = new_id if new > old else old_id
        larger[i] = new if new > old else old


@njit(cache=True, nogil=True)
def _holds_nan(plane: NDArray[np.float32]) -> np.int32:
    bad = np.int32(0)
    for i in range(plane.size):
        bad |= np.int32(plane[i] != plane[i])
    return bad


@njit(cache=True, nogil=True)
def _decide(
    best: NDArray[np.float32],
    best_id: NDArray[np.int32],
    fg: np.float32,
    bg: np.float32,
    decided: NDArray[np.int32],
    label: NDArray[np.uint8],
) -> None:
    for i in range(label.size):
        top, top_id = best[i], best_id[i]
        confident = (top > fg) & ((top_id != 0) | (top > bg))
        decided[i] = top_id if confident else np.int32(IGNORE_INDEX)
    for i in range(label.size):
        label[i] = decided[i]


@njit(cache=True, nogil=True)
def _find_runs(
    label: NDArray[np.uint8], source: NDArray[np.uint8], height: int, width: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_], int]:
    """Find the horizontal runs of one label, and which lie in an 8-connected region with a source.

    Union-find over runs, which are far fewer than pixels. Returns first pixel, end, verdict and
    number of runs; unlabelled runs are left out.
    """
    changes, found = _find_changes(label, width)
    room, flags = np.empty((3, found), np.int32), np.empty((2, found), np.bool_)
    starts, ends, parent, alive, kept = room[0], room[1], room[2], flags[0], flags[1]
    runs = first = above = above_end = stop = 0
    for number in range(found):
        start, end = changes[number], changes[number + 1]
        if start >= stop:
            above, above_end = first, runs
            first, stop = runs, stop + width
        c = label[start]
        if c == IGNORE_INDEX:
            continue
        starts[runs], ends[runs], parent[runs] = start, end, runs
        alive[runs] = _holds_source(source, start, end)
        # Both rows go from left to right: what ends before this run touches no later one.
        while above < above_end and ends[above] + width < start:
            above += 1
        other = above
        while other < above_end and starts[other] + width <= end:
            if label[starts[other]] == c:
                _join_runs(parent, alive, other, runs)
            other += 1
        runs += 1
    for run in range(runs):
        parent[run] = parent[parent[run]]  # parents come first, so this is the root
        kept[run] = alive[parent[run]]
    return starts, ends, kept, runs


@njit(cache=True, nogil=True)
def _find_changes(label: NDArray[np.uint8], width: int) -> tuple[NDArray[np.int32], int]:
    """List the pixels where the label changes or a row begins, and the end; also return how many they are."""
    padded = (label.size + 7) // 8 * 8
    differs = np.empty(padded, np.uint8)
    after, before, marks = label[1:], label[: label.size - 1], differs[1 : label.size]
    for i in range(marks.size):
        marks[i] = after[i] != before[i]
    for start in range(0, label.size, width):
        differs[start] = 1
    differs[label.size :] = 0
    changes = np.empty(padded + 1, np.int32)
    found = np.uint32(0)
    words = differs.view(np.uint64)
    for word in range(words.size):
        if words[word]:  # most often eight pixels are alike
            for i in range(8 * word, 8 * word + 8):
                # without a branch: where labels change is what a processor cannot guess
                changes[found] = i
                found += np.uint32(differs[i])
    changes[found] = label.size
    return changes, int(found)


@njit(cache=True, nogil=True)
def _holds_source(source: NDArray[np.uint8], start: np.int32, end: np.int32) -> bool:
    some = np.uint8(0)
    for i in range(np.uint32(start), np.uint32(end)):
        some |= source[i]
    return bool(some)


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
