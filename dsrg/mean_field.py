"""Mean-field inference in a fully connected CRF, compiled. No checks: called by :mod:`dsrg.crf` only.

The steps are pydensecrf's. What makes them fast: the last class follows from the others, because all add up
to 1; filter, softmax and the next splat of a few pixels are done while these are in the fastest cache; two
classes go through the lattice as one complex number; the lattice of positions is kept for the next picture of
the same size.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dsrg.lattice import Lattice, blur, build_lattice

_BLOCK = 256
_KEPT_PIXELS = 1 << 19  # terms of larger pictures are not kept
# Corners of a pixel: 6 in the lattice of positions and colours, then 3 in that of positions, if it is used.
# Compiled code sees how long a tuple is, and unrolls loops over it.
_BILATERAL = (0, 1, 2, 3, 4, 5)
_BOTH = (0, 1, 2, 3, 4, 5, 6, 7, 8)


class PairwiseTerms(NamedTuple):
    """What pairs of pixels pay, folded into the weights of two lattices whose vertices are counted through.

    Attributes
    ----------
    corners : (N, 9 or 6) int32
    weights : (N, 9 or 6) float32
        Each term's weight and normalisation are in them, as square roots: one half counts in the splat and
        the other in the slice.
    bilateral, gaussian : (6 or 3, 2, M) int32
        Neighbours; see :class:`dsrg.lattice.Lattice`.
    own : float32
        What a pixel hands to itself, where a term's Gaussian is so narrow that no other gets anything.
    total : (N,) float32
        What a pixel gets if one class is everywhere: the sum over classes, whatever they are.
    """

    corners: NDArray[np.int32]
    weights: NDArray[np.float32]
    bilateral: NDArray[np.int32]
    gaussian: NDArray[np.int32]
    own: np.float32
    total: NDArray[np.float32]


def build_terms(
    image: NDArray[np.uint8],
    *,
    bilateral_weight: float,
    bilateral_xy: float,
    bilateral_rgb: float,
    gaussian_weight: float,
    gaussian_xy: float,
) -> PairwiseTerms:
    """Build both terms of a picture.

    Parameters
    ----------
    image : (H, W, 3) uint8
    bilateral_weight, bilateral_xy, bilateral_rgb, gaussian_weight, gaussian_xy : float
        As for :func:`dsrg.crf.refine_probs`; a weight of 0 leaves its term out.

    Returns
    -------
    PairwiseTerms
        Of ``N = H * W`` pixels, row by row.

    Raises
    ------
    OverflowError
        See :func:`dsrg.lattice.build_lattice`.
    """
    height, width, _ = image.shape
    count = height * width
    build = _build_gaussian if count <= _KEPT_PIXELS else _build_gaussian.__wrapped__
    gaussian = build(height, width, gaussian_xy, gaussian_weight)
    axes = len(_BOTH if len(gaussian.halves) else _BILATERAL)
    corners, weights = np.zeros((count, axes), np.int32), np.zeros((count, axes), np.float32)
    total = gaussian.received
    neighbours = np.empty((len(_BILATERAL), 2, 0), np.int32)
    if bilateral_weight > 0:
        features = np.empty((5, height, width), np.float32)
        _fill_positions(features, bilateral_xy)
        features[2:] = image.transpose(2, 0, 1)
        features[2:] /= np.float32(bilateral_rgb)
        lattice = build_lattice(features.reshape(5, -1))
        neighbours = lattice.neighbours
        halves, received = _normalise(lattice, bilateral_weight)
        _fold(*lattice[:2], halves, 0, 0, corners, weights)
        total = total + received
    first = neighbours.shape[2] + 1
    _fold(*gaussian.lattice[:2], gaussian.halves, len(_BILATERAL), first, corners, weights)
    return PairwiseTerms(corners, weights, neighbours, gaussian.lattice.neighbours, gaussian.own, total)


def infer(logits: NDArray[np.float32], terms: PairwiseTerms, *, iterations: int) -> NDArray[np.float32]:
    """Run the mean field.

    Parameters
    ----------
    logits : (P, N) float32
        Minus the unary energies, contiguous; not modified.
    terms : PairwiseTerms
    iterations : int

    Returns
    -------
    (P, N) float32
        Marginals.
    """
    marginals = np.empty_like(logits)
    _infer(logits, *terms, iterations, marginals)
    return marginals


def _fill_positions(features: NDArray[np.float32], deviation: float) -> None:
    _, height, width = features.shape
    features[0] = np.arange(width, dtype=np.float32) / np.float32(deviation)
    features[1] = np.arange(height, dtype=np.float32)[:, None] / np.float32(deviation)


class _Gaussian(NamedTuple):
    """The term of positions; its lattice has no points if it is left out, or if all it does is `own`."""

    lattice: Lattice
    halves: NDArray[np.float32]
    received: NDArray[np.float32]
    own: np.float32


@lru_cache(maxsize=8)
def _build_gaussian(height: int, width: int, deviation: float, weight: float) -> _Gaussian:
    if weight > 0:
        features = np.empty((2, height, width), np.float32)
        _fill_positions(features, deviation)
        lattice = build_lattice(features.reshape(2, -1))
        if not _keeps_pixels_apart(lattice):
            return _Gaussian(lattice, *_normalise(lattice, weight), np.float32(0))
    nothing = Lattice(np.empty((0, 3), np.int32), np.empty((0, 3), np.float32), np.empty((3, 2, 0), np.int32))
    # what a pixel loses on the way through the lattice, normalisation gives back
    received = np.full(height * width, weight, np.float32)
    return _Gaussian(nothing, np.empty(0, np.float32), received, np.float32(weight))


def _keeps_pixels_apart(lattice: Lattice) -> bool:
    """Whether no vertex has, or is next to one that has, two points."""
    corners, _, neighbours = lattice
    vertices = neighbours.shape[2]
    if vertices < corners.size:
        return False
    points = np.empty(vertices + 1, np.int64)
    points[corners] = np.arange(len(corners))[:, None]
    return bool(((points[neighbours] == points[:vertices]) | (neighbours == vertices)).all())


def _normalise(lattice: Lattice, weight: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the root of each point's normalisation and weight, and what it gets of one class everywhere."""
    count, axes = lattice.corners.shape
    scale = 1 / (1 + 2.0 ** (1 - axes))  # blurs along all axes make values larger
    norm = np.ones(count, np.float32)
    received = np.empty_like(norm)
    _filter_points(*lattice, norm, received)
    norm /= np.sqrt(received * np.float32(scale) + np.float32(1e-20))
    _filter_points(*lattice, norm, received)
    received *= norm * np.float32(weight * scale)
    return norm * np.float32(math.sqrt(weight * scale)), received


@njit(cache=True, nogil=True)
def _fold(
    corners: NDArray[np.int32],
    weights: NDArray[np.float32],
    halves: NDArray[np.float32],
    column: int,
    first_vertex: int,
    all_corners: NDArray[np.int32],
    all_weights: NDArray[np.float32],
) -> None:
    count, axes = corners.shape
    for i in range(count):
        for corner in range(axes):
            all_corners[i, column + corner] = corners[i, corner] + first_vertex
            all_weights[i, column + corner] = weights[i, corner] * halves[i]


@njit(cache=True, nogil=True, fastmath=True)
def _filter_points(
    corners: NDArray[np.int32],
    weights: NDArray[np.float32],
    neighbours: NDArray[np.int32],
    values: NDArray[np.float32],
    filtered: NDArray[np.float32],
) -> None:
    count, axes = corners.shape
    lattice = np.zeros(neighbours.shape[2] + 1, np.float32)
    blurred = np.empty(len(lattice), np.float32)
    for i in range(count):
        for corner in range(axes):
            lattice[corners[i, corner]] += weights[i, corner] * values[i]
    blur(neighbours, 0, lattice, blurred)
    for i in range(count):
        value = np.float32(0)
        for corner in range(axes):
            value += weights[i, corner] * blurred[corners[i, corner]]
        filtered[i] = value


@njit(cache=True, nogil=True, fastmath=True)
def _infer(
    logits: NDArray[np.float32],
    corners: NDArray[np.int32],
    weights: NDArray[np.float32],
    bilateral: NDArray[np.int32],
    gaussian: NDArray[np.int32],
    own: np.float32,
    total: NDArray[np.float32],
    iterations: int,
    marginals: NDArray[np.float32],
) -> None:
    classes, count = logits.shape
    last = classes - 1  # the class that follows from the others
    pairs = last // 2
    second = bilateral.shape[2] + 1
    vertices = second + gaussian.shape[2] + 1
    splat = np.zeros((last % 2, vertices), np.float32)
    blurred = np.zeros((last % 2, vertices), np.float32)
    splat_pairs = np.zeros((pairs, vertices), np.complex64)
    blurred_pairs = np.zeros((pairs, vertices), np.complex64)
    probs = np.empty((classes, _BLOCK), np.float32)
    two = np.empty(_BLOCK, np.complex64)
    rest = np.empty(_BLOCK, np.float32)
    for iteration in range(iterations + 1):
        if iteration:
            for pair in range(pairs):
                blur(bilateral, 0, splat_pairs[pair], blurred_pairs[pair])
                blur(gaussian, second, splat_pairs[pair], blurred_pairs[pair])
            if last % 2:
                blur(bilateral, 0, splat[0], blurred[0])
                blur(gaussian, second, splat[0], blurred[0])
            for vertex in range(vertices):
                for pair in range(pairs):
                    splat_pairs[pair, vertex] = 0
                if last % 2:
                    splat[0, vertex] = 0
        for start in range(0, count, _BLOCK):
            block = min(_BLOCK, count - start)
            if iteration:
                for pair in range(pairs):
                    _slice(corners, weights, blurred_pairs[pair], start, block, two)
                    for i in range(block):
                        probs[2 * pair, i] = two[i].real
                        probs[2 * pair + 1, i] = two[i].imag
                if last % 2:
                    _slice(corners, weights, blurred[0], start, block, probs[last - 1])
                for i in range(block):
                    rest[i] = total[start + i]
                for c in range(last):
                    if own > 0:
                        for i in range(block):
                            probs[c, i] += own * marginals[c, start + i]
                    for i in range(block):
                        rest[i] -= probs[c, i]
                        probs[c, i] += logits[c, start + i]
                for i in range(block):
                    probs[last, i] = logits[last, start + i] + rest[i]
            else:
                for c in range(classes):
                    for i in range(block):
                        probs[c, i] = logits[c, start + i]
            _softmax(probs, block)
            if own > 0 or iteration == iterations:
                for c in range(classes):
                    for i in range(block):
                        marginals[c, start + i] = probs[c, i]
            if iteration == iterations:
                continue
            for pair in range(pairs):
                for i in range(block):
                    two[i] = complex(probs[2 * pair, i], probs[2 * pair + 1, i])
                _splat(corners, weights, two, start, block, splat_pairs[pair])
            if last % 2:
                _splat(corners, weights, probs[last - 1], start, block, splat[0])


@njit(cache=True, nogil=True, fastmath=True)
def _slice(
    corners: NDArray[np.int32],
    weights: NDArray[np.float32],
    vertices: NDArray[Any],
    start: int,
    block: int,
    values: NDArray[Any],
) -> None:
    if corners.shape[1] == len(_BOTH):
        _slice_corners(corners, weights, _BOTH, vertices, start, block, values)
    else:
        _slice_corners(corners, weights, _BILATERAL, vertices, start, block, values)


@njit(cache=True, nogil=True, fastmath=True)
def _slice_corners(
    corners: NDArray[np.int32],
    weights: NDArray[np.float32],
    axes: tuple[int, ...],
    vertices: NDArray[Any],
    start: int,
    block: int,
    values: NDArray[Any],
) -> None:
    for i in range(block):
        value = vertices.dtype.type(0)
        for corner in range(len(axes)):
            value += weights[start + i, corner] * vertices[corners[start + i, corner]]
        values[i] = value


@njit(cache=True, nogil=True, fastmath=True)
def _splat(
    corners: NDArray[np.int32],
    weights: NDArray[np.float32],
    values: NDArray[Any],
    start: int,
    block: int,
    vertices: NDArray[Any],
) -> None:
    if corners.shape[1] == len(_BOTH):
        _splat_corners(corners, weights, _BOTH, values, start, block, vertices)
    else:
        _splat_corners(corners, weights, _BILATERAL, values, start, block, vertices)


@njit(cache=True, nogil=True, fastmath=True)
def _splat_corners(
    corners: NDArray[np.int32],
    weights: NDArray[np.float32],
    axes: tuple[int, ...],
    values: NDArray[Any],
    start: int,
    block: int,
    vertices: NDArray[Any],
) -> None:
    # pixel by pixel: a vertex is then written again only after the others, not while it is still on its way
    for i in range(block):
        value = values[i]
        for corner in range(len(axes)):
            vertices[corners[start + i, corner]] += weights[start + i, corner] * value


@njit(cache=True, nogil=True, fastmath=True)
def _softmax(logits: NDArray[np.float32], block: int) -> None:
    """Turn logits (P, block) into probabilities, in place."""
    classes = len(logits)
    top = np.empty(block, np.float32)
    powers = np.empty(block, np.int32)
    scales = powers.view(np.float32)
    for i in range(block):
        top[i] = logits[0, i]
    for c in range(1, classes):
        for i in range(block):
            top[i] = max(top[i], logits[c, i])
    total = np.zeros(block, np.float32)
    for c in range(classes):
        # exp(x) = 2^n exp(rest), by Cephes' polynomial: unlike a call of exp, vectorised; right to 2 ulp
        for i in range(block):
            x = max(logits[c, i] - top[i], np.float32(-87))
            power = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
            x -= power * np.float32(0.693359375)
            x += power * np.float32(2.12194440e-4)
            y = np.float32(1.9875691500e-4)
            y = y * x + np.float32(1.3981999507e-3)
            y = y * x + np.float32(8.3334519073e-3)
            y = y * x + np.float32(4.1665795894e-2)
            y = y * x + np.float32(1.6666665459e-1)
            y = y * x + np.float32(5.0000001201e-1)
            logits[c, i] = y * x * x + x + np.float32(1)
            powers[i] = (np.int32(power) + np.int32(127)) << np.int32(23)
        for i in range(block):
            logits[c, i] *= scales[i]
            total[i] += logits[c, i]
    for i in range(block):
        total[i] = np.float32(1) / total[i]
    for c in range(classes):
        for i in range(block):
            logits[c, i] *= total[i]
