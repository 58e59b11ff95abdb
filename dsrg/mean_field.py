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
_CORNERS = 9  # of a pixel: 3 vertices of the lattice of positions, 6 of that of positions and colours
_KEPT_PIXELS = 1 << 19  # lattices of larger pictures are not kept


class PairwiseTerms(NamedTuple):
    """What pairs of pixels pay, folded into the weights of two lattices whose vertices are counted through.

    Attributes
    ----------
    corners : (N, 9) int32
    weights : (N, 9) float32
        Each term's weight and normalisation are in them, as square roots: one half counts in the splat and
        the other in the slice.
    gaussian, bilateral : (3 or 6, 2, M) int32
        Neighbours; see :class:`dsrg.lattice.Lattice`.
    total : (N,) float32
        What a pixel gets if one class is everywhere: the sum over classes, whatever they are.
    """

    corners: NDArray[np.int32]
    weights: NDArray[np.float32]
    gaussian: NDArray[np.int32]
    bilateral: NDArray[np.int32]
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
    corners = np.zeros((height * width, _CORNERS), np.int32)
    weights = np.zeros((height * width, _CORNERS), np.float32)
    total = np.zeros(height * width, np.float32)
    gaussian = bilateral = np.empty((_CORNERS, 2, 0), np.int32)
    if gaussian_weight > 0:
        place = _place_positions if height * width <= _KEPT_PIXELS else _place_positions.__wrapped__
        lattice, response = place(height, width, gaussian_xy)
        _add_term(corners, weights, total, 0, 0, lattice, response, gaussian_weight)
        gaussian = lattice.neighbours
    if bilateral_weight > 0:
        features = np.empty((5, height, width), np.float32)
        _fill_positions(features, bilateral_xy)
        features[2:] = image.transpose(2, 0, 1)
        features[2:] /= np.float32(bilateral_rgb)
        lattice, response = _place(features.reshape(5, -1))
        _add_term(corners, weights, total, 3, gaussian.shape[2] + 1, lattice, response, bilateral_weight)
        bilateral = lattice.neighbours
    return PairwiseTerms(corners, weights, gaussian, bilateral, total)


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


@lru_cache(maxsize=8)
def _place_positions(height: int, width: int, deviation: float) -> tuple[Lattice, NDArray[np.float32]]:
    features = np.empty((2, height, width), np.float32)
    _fill_positions(features, deviation)
    return _place(features.reshape(2, -1))


def _place(features: NDArray[np.float32]) -> tuple[Lattice, NDArray[np.float32]]:
    """Build a lattice, and filter ones by it, as the symmetric normalisation asks for."""
    lattice = build_lattice(features)
    return lattice, _filter(*lattice, np.ones(features.shape[1], np.float32))


def _add_term(
    corners: NDArray[np.int32],
    weights: NDArray[np.float32],
    total: NDArray[np.float32],
    column: int,
    first_vertex: int,
    lattice: Lattice,
    response: NDArray[np.float32],
    weight: float,
) -> None:
    norm = 1 / np.sqrt(response + np.float32(1e-20))
    total += np.float32(weight) * norm * _filter(*lattice, norm)
    # `_filter` ends with a constant of the lattice, which here goes into the weights as well
    half = norm * np.float32(math.sqrt(weight * _scale(lattice.corners.shape[1])))
    _fold(lattice.corners, lattice.weights, half, column, first_vertex, corners, weights)


@njit(cache=True, nogil=True)
def _fold(
    corners: NDArray[np.int32],
    weights: NDArray[np.float32],
    half: NDArray[np.float32],
    column: int,
    first_vertex: int,
    all_corners: NDArray[np.int32],
    all_weights: NDArray[np.float32],
) -> None:
    count, axes = corners.shape
    for i in range(count):
        for corner in range(axes):
            all_corners[i, column + corner] = corners[i, corner] + first_vertex
            all_weights[i, column + corner] = weights[i, corner] * half[i]


def _scale(axes: int) -> float:
    return 1 / (1 + 2.0 ** (1 - axes))


def _filter(
    corners: NDArray[np.int32],
    weights: NDArray[np.float32],
    neighbours: NDArray[np.int32],
    values: NDArray[np.float32],
) -> NDArray[np.float32]:
    filtered = np.empty_like(values)
    _filter_points(corners, weights, neighbours, values, filtered)
    filtered *= np.float32(_scale(len(neighbours)))
    return filtered


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
    gaussian: NDArray[np.int32],
    bilateral: NDArray[np.int32],
    total: NDArray[np.float32],
    iterations: int,
    marginals: NDArray[np.float32],
) -> None:
    classes, count = logits.shape
    last = classes - 1  # the class that follows from the others
    pairs = last // 2
    vertices = gaussian.shape[2] + bilateral.shape[2] + 2
    splat = np.zeros((last % 2, vertices), np.float32)
    blurred = np.zeros((last % 2, vertices), np.float32)
    splat_pairs = np.zeros((pairs, vertices), np.complex64)
    blurred_pairs = np.zeros((pairs, vertices), np.complex64)
    probs = np.empty((classes, _BLOCK), np.float32)
    one = np.empty(_BLOCK, np.float32)
    two = np.empty(_BLOCK, np.complex64)
    rest = np.empty(_BLOCK, np.float32)
    for iteration in range(iterations + 1):
        if iteration:
            for pair in range(pairs):
                blur(gaussian, 0, splat_pairs[pair], blurred_pairs[pair])
                blur(bilateral, gaussian.shape[2] + 1, splat_pairs[pair], blurred_pairs[pair])
            if last % 2:
                blur(gaussian, 0, splat[0], blurred[0])
                blur(bilateral, gaussian.shape[2] + 1, splat[0], blurred[0])
            for vertex in range(vertices):
                for pair in range(pairs):
                    splat_pairs[pair, vertex] = 0
                if last % 2:
                    splat[0, vertex] = 0
        for start in range(0, count, _BLOCK):
            block = min(_BLOCK, count - start)
            for c in range(classes):
                for i in range(block):
                    probs[c, i] = logits[c, start + i]
            if iteration:
                for i in range(block):
                    rest[i] = total[start + i]
                for pair in range(pairs):
                    _slice(corners, weights, blurred_pairs[pair], start, block, two)
                    for i in range(block):
                        probs[2 * pair, i] += two[i].real
                        probs[2 * pair + 1, i] += two[i].imag
                        rest[i] -= two[i].real + two[i].imag
                if last % 2:
                    _slice(corners, weights, blurred[0], start, block, one)
                    for i in range(block):
                        probs[last - 1, i] += one[i]
                        rest[i] -= one[i]
                for i in range(block):
                    probs[last, i] += rest[i]
            _softmax(probs, block)
            if iteration == iterations:
                for c in range(classes):
                    for i in range(block):
                        marginals[c, start + i] = probs[c, i]
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
    for i in range(block):
        value = vertices.dtype.type(0)
        for corner in range(_CORNERS):
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
    # pixel by pixel: a vertex is then written again only after eight others, not while it is still on its way
    for i in range(block):
        value = values[i]
        for corner in range(_CORNERS):
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
