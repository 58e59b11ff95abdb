"""The permutohedral lattice, compiled: pixels filtered by a Gaussian of position, or of position and colour.

A pixel is a point of ``d`` features; space is tiled by simplices, and each point lies between ``d + 1``
vertices of one. To filter, points hand their values to those vertices (splat), vertices mix with their
neighbours along each of ``d + 1`` axes (blur), and points take the values back (slice). Vertices, weights and
blur are those of pydensecrf, so that results are the same but for rounding. Called by :mod:`dsrg.mean_field`.

References
----------
.. [1] Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
   Eurographics 2010.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

_BLOCK = (
    256  # points at a time: their temporaries stay in the fastest cache, and loops over them are vectorised
)
_KEY_BITS = 62
_FREE = np.int32(-1)
_NONE = np.int64(np.iinfo(np.int64).min)


class Lattice(NamedTuple):
    """Where points lie on the lattice of their features.

    Attributes
    ----------
    corners : (N, d + 1) int32
        The vertices around each point.
    weights : (N, d + 1) float32
        How near each is; they add up to 1.
    neighbours : (d + 1, 2, M) int32
        Of each of `M` vertices the two along each axis; `M` itself where there is none.
    """

    corners: NDArray[np.int32]
    weights: NDArray[np.float32]
    neighbours: NDArray[np.int32]


def build_lattice(features: NDArray[np.float32]) -> Lattice:
    """Find the vertices around every point.

    Parameters
    ----------
    features : (d, N) float32
        In standard deviations of the Gaussian; `d` of 1 to 5.

    Raises
    ------
    OverflowError
        The features reach too far for the keys of vertices: with five of them, some 400 standard deviations.
    """
    dimensions = len(features)
    bits = _KEY_BITS // dimensions
    units = np.array([1 << (bits * axis) for axis in range(dimensions)] + [0], np.int64)
    # the blurs along all axes together have the variance of the unit Gaussian
    spacing = math.sqrt(2 / 3) * (dimensions + 1)
    steps = [spacing / math.sqrt((axis + 1) * (axis + 2)) for axis in range(dimensions)]
    corners, weights, neighbours, reach = _build(features, np.array(steps, np.float32), units)
    if reach + dimensions + 1 >= 1 << (bits - 1):
        raise OverflowError(
            f"a feature is {reach:.0f} steps of the lattice away: keys hold {1 << (bits - 1)}"
        )
    return Lattice(corners, weights, neighbours)


@njit(cache=True, nogil=True)
def _build(
    features: NDArray[np.float32], steps: NDArray[np.float32], units: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], np.float32]:
    # Loops where NumPy would do, here and below: the compiler needs a fifth of the time for them.
    d, count = features.shape
    axes = d + 1
    corners = np.empty((count, axes), np.int32)
    weights = np.empty((count, axes), np.float32)
    # An open-addressed table of vertices: their keys lie in the order in which they were found, so that
    # what is near in the picture is near in memory.
    slots, keys = _grow_table(np.empty(0, np.int64), 0, 1 << 14)
    vertices = 0
    origin = np.empty((axes, _BLOCK), np.float32)
    offset = np.empty((axes, _BLOCK), np.float32)
    rank = np.empty((axes, _BLOCK), np.int32)
    first_key = np.empty(_BLOCK, np.int64)
    jumps = np.empty((_BLOCK, axes), np.int64)
    barycentric = np.empty((_BLOCK, axes + 1), np.float32)
    last_key = np.empty(axes, np.int64)
    last = np.empty(axes, np.int32)
    for corner in range(axes):
        last_key[corner] = _NONE
    reach = np.float32(0)
    for start in range(0, count, _BLOCK):
        block = min(_BLOCK, count - start)
        _elevate(features, start, block, steps, offset)
        reach = max(reach, _find_simplices(offset, origin, rank, block))
        _describe_simplices(offset, origin, rank, units, barycentric, first_key, jumps, block)
        if 2 * (vertices + block * axes) > len(slots):
            slots, keys = _grow_table(keys, vertices, 2 * len(slots))
        vertices = _find_corners(
            slots, keys, vertices, first_key, jumps, last_key, last, start, block, corners
        )
        for i in range(block):
            for corner in range(axes):
                weights[start + i, corner] = barycentric[i, corner]
    neighbours = np.empty((axes, 2, vertices), np.int32)
    _link_vertices(slots, keys, units, neighbours)
    return corners, weights, neighbours, reach


@njit(cache=True, nogil=True)
def _elevate(
    features: NDArray[np.float32],
    start: int,
    block: int,
    steps: NDArray[np.float32],
    elevated: NDArray[np.float32],
) -> None:
    """Place points in the plane of ``d + 1`` coordinates that add up to 0, in which the lattice lies."""
    for i in range(block):
        elevated[0, i] = 0
    for axis in range(len(features), 0, -1):
        step = steps[axis - 1]
        number = np.float32(axis)
        for i in range(block):
            value = features[axis - 1, start + i] * step
            elevated[axis, i] = elevated[0, i] - number * value
            elevated[0, i] += value


@njit(cache=True, nogil=True)
def _find_simplices(
    offset: NDArray[np.float32], origin: NDArray[np.float32], rank: NDArray[np.int32], block: int
) -> np.float32:
    """Split coordinates into the nearest vertex of remainder 0 and an offset, and rank the offsets.

    Returns the largest coordinate of an origin.
    """
    axes = len(offset)
    width = np.float32(axes)
    share = np.float32(1) / width
    for i in range(block):
        rank[0, i] = 0
    for axis in range(axes):
        for i in range(block):
            rounded = np.floor(offset[axis, i] * share + np.float32(0.5))
            rank[0, i] += np.int32(rounded)
            origin[axis, i] = rounded * width
            offset[axis, i] -= rounded * width
    for axis in range(1, axes):
        for i in range(block):
            rank[axis, i] = rank[0, i]
    for one in range(axes - 1):
        for other in range(one + 1, axes):
            for i in range(block):
                less = np.int32(offset[one, i] < offset[other, i])
                rank[one, i] += less
                rank[other, i] += np.int32(1) - less
    reach = np.float32(0)
    for axis in range(axes):
        for i in range(block):
            # rounding may have left the plane; step back into it along the axes that rounded furthest
            place = rank[axis, i]
            back = np.int32(axes) * (np.int32(place < 0) - np.int32(place >= axes))
            rank[axis, i] = place + back
            origin[axis, i] += np.float32(back)
            offset[axis, i] -= np.float32(back)
            reach = max(reach, abs(origin[axis, i]))
    return reach


@njit(cache=True, nogil=True)
def _describe_simplices(
    offset: NDArray[np.float32],
    origin: NDArray[np.float32],
    rank: NDArray[np.int32],
    units: NDArray[np.int64],
    barycentric: NDArray[np.float32],
    first_key: NDArray[np.int64],
    jumps: NDArray[np.int64],
    block: int,
) -> None:
    """Compute barycentric weights, the key of the first vertex and what leads from one to the next."""
    axes = len(offset)
    d = axes - 1
    share = np.float32(1) / np.float32(axes)
    ones = np.int64(0)
    for axis in range(axes):
        ones += units[axis]
    for i in range(block):
        first_key[i] = 0
        for corner in range(axes + 1):
            barycentric[i, corner] = 0
    for axis in range(axes):
        jump = ones - axes * units[axis]
        for i in range(block):
            first_key[i] += np.int64(origin[axis, i]) * units[axis]
            place = rank[axis, i]
            value = offset[axis, i] * share
            barycentric[i, d - place] += value
            barycentric[i, axes - place] -= value
            jumps[i, d - place] = jump
    for i in range(block):
        barycentric[i, 0] += np.float32(1) + barycentric[i, axes]


@njit(cache=True, nogil=True)
def _find_corners(
    slots: NDArray[np.int32],
    keys: NDArray[np.int64],
    vertices: int,
    first_key: NDArray[np.int64],
    jumps: NDArray[np.int64],
    last_key: NDArray[np.int64],
    last: NDArray[np.int32],
    start: int,
    block: int,
    corners: NDArray[np.int32],
) -> int:
    """Look up the vertices of a block, enter new ones, and return how many there are."""
    axes = corners.shape[1]
    for i in range(block):
        key = first_key[i]
        for corner in range(axes):
            # most points share vertices with the point to their left
            if key != last_key[corner]:
                slot = _find_slot(slots, keys, key)
                if slots[slot] == _FREE:
                    slots[slot] = vertices
                    keys[vertices] = key
                    vertices += 1
                last[corner] = slots[slot]
                last_key[corner] = key
            corners[start + i, corner] = last[corner]
            key += jumps[i, corner]
    return vertices


@njit(cache=True, nogil=True)
def _find_slot(slots: NDArray[np.int32], keys: NDArray[np.int64], key: np.int64) -> np.int64:
    """Find the slot of a key, or the free one where it belongs."""
    mask = np.int64(len(slots) - 1)
    product = key * np.int64(-7046029254386353131)  # 2^64 / golden ratio
    slot = ((product >> 32) ^ (product >> 49)) & mask
    while slots[slot] != _FREE and keys[slots[slot]] != key:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def _grow_table(
    keys: NDArray[np.int64], vertices: int, size: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    slots = np.empty(size, np.int32)
    for slot in range(size):
        slots[slot] = _FREE
    more = np.empty(size // 2 + 1, np.int64)
    for vertex in range(vertices):
        more[vertex] = keys[vertex]
        slots[_find_slot(slots, more, more[vertex])] = vertex
    return slots, more


@njit(cache=True, nogil=True)
def _link_vertices(
    slots: NDArray[np.int32], keys: NDArray[np.int64], units: NDArray[np.int64], neighbours: NDArray[np.int32]
) -> None:
    """Find the neighbours along every axis: who is my next, am I the one before."""
    axes, _, vertices = neighbours.shape
    for axis in range(axes):
        step = axes * units[axis]
        for other_axis in range(axes):
            step -= units[other_axis]
        for vertex in range(vertices):
            neighbours[axis, 0, vertex] = vertices
            neighbours[axis, 1, vertex] = vertices
        for vertex in range(vertices):
            other = slots[_find_slot(slots, keys, keys[vertex] + step)]
            if other != _FREE:
                neighbours[axis, 0, vertex] = other
                neighbours[axis, 1, other] = vertex


@njit(cache=True, nogil=True, fastmath=True)
def blur(neighbours: NDArray[np.int32], first: int, values: NDArray[Any], blurred: NDArray[Any]) -> None:
    """Mix each vertex with its neighbours, along one axis after the other.

    Parameters
    ----------
    neighbours : (d + 1, 2, M) int32
    first : int
        Where the lattice's values start in these arrays, which may hold others' too.
    values : (at least first + M + 1,) float32 or complex64
        Value M is 0: what neighbours that are none hand on. Overwritten.
    blurred : the same
        The result; its value M is 0 too.
    """
    axes, _, vertices = neighbours.shape
    blurred[first + vertices] = 0
    for axis in range(axes):
        if axis % 2 == 0:
            _mix(neighbours, axis, first, values, blurred)
        else:
            _mix(neighbours, axis, first, blurred, values)
    if axes % 2 == 0:
        for vertex in range(first, first + vertices):
            blurred[vertex] = values[vertex]


@njit(cache=True, nogil=True, fastmath=True)
def _mix(
    neighbours: NDArray[np.int32], axis: int, first: int, values: NDArray[Any], mixed: NDArray[Any]
) -> None:
    for vertex in range(neighbours.shape[2]):
        both = values[first + neighbours[axis, 0, vertex]] + values[first + neighbours[axis, 1, vertex]]
        mixed[first + vertex] = values[first + vertex] + np.float32(0.5) * both
