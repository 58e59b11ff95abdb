"""Near-duplicate pictures, by a perceptual hash: the same scene scaled, recompressed or touched up.

A picture that stands in both splits, or nearly so, makes scores look better than they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_SIDE = 32
_FREQUENCIES = 8
_GAP = 3.0  # shrunk to three times the side by plain means first: a tenth of the time
_MAX_PAIRS_AT_ONCE = 2**18  # 2 MB: more leave the cache
_BITS = 64
_SPARE_BANDS = 2  # beside those that differing bits may spoil
_SORTING = 100  # pairs that are compared in the time in which one hash is sorted


def hash_image(image: NDArray[np.uint8]) -> int:
    """Hash what a picture looks like, by the signs of its lowest frequencies.

    The picture is turned grey and squeezed to 32 x 32; of its cosine transform the 8 x 8 lowest
    frequencies, without the mean, are compared with their median. One bit of the 64 is always 0.

    Parameters
    ----------
    image : (H, W, 3) uint8
        Not modified.

    Returns
    -------
    int
        64 bits.

    Notes
    -----
    The rule is the "pHash" of Zauner, Implementation and Benchmarking of Perceptual Image Hash
    Functions, 2010, section 3.2.1.
    """
    grey = (
        Image.fromarray(image)
        .convert("L")
        .resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=_GAP)
    )
    spectrum = dctn(np.asarray(grey, dtype=np.float64), norm="ortho")[:_FREQUENCIES, :_FREQUENCIES]
    # Rounded, so that a flat picture has zeros here and not the transform's rounding errors.
    lowest = np.round(spectrum.ravel()[1:], 3)
    bits = np.concatenate([[False], lowest > np.median(lowest)])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def find_near_duplicates(
    hashes: NDArray[np.uint64], others: NDArray[np.uint64] | None = None, *, max_bits: int
) -> NDArray[np.int64]:
    """Find all pairs of hashes that differ in at most `max_bits` bits.

    Many hashes are not compared each with each: of a few bands that they are cut into, those that no
    differing bit lies in are equal, so that only hashes that are equal there need be compared. Time then
    grows as the number of hashes, not as its square.

    Parameters
    ----------
    hashes : (A,) uint64
    others : (B,) uint64, optional
        None compares `hashes` with each other: each pair is found once, the first position first.
    max_bits : int
        0 finds equal hashes only.

    Returns
    -------
    (M, 3) int64
        Position in `hashes`, position in `others`, number of differing bits; in this order.

    References
    ----------
    Multi-index hashing: Norouzi, Punjani and Fleet, CVPR 2012, here with several bands that must be equal.

    Examples
    --------
    >>> hashes, others = np.array([0b0000, 0b1111], np.uint64), np.array([0b0001], np.uint64)
    >>> find_near_duplicates(hashes, others, max_bits=1).tolist()
    [[0, 0, 1]]
    """
    among = others is None
    others = hashes if others is None else others
    masks = _list_masks(max_bits)
    each = 1 + len(masks) * len(others) / 2 ** masks[0].bit_count()
    by_bands = len(hashes) * each + _SORTING * len(masks) * (len(hashes) + len(others))
    if by_bands >= len(hashes) * len(others):
        parts = _compare_blocks(hashes, others, max_bits)
    else:
        ways = (_compare_equal(hashes, others, np.uint64(mask), max_bits) for mask in masks)
        parts = chain.from_iterable(ways)
    # without pairs of a hash and itself, which are most of all
    found = [part[part[:, 0] < part[:, 1]] if among else part for part in parts]
    return np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 3), np.int64)


def _list_masks(max_bits: int) -> list[int]:
    """List which bits to compare first: two hashes that are near each other are equal under one of them."""
    count = min(max_bits + _SPARE_BANDS, _BITS)
    edges = [round(number * _BITS / count) for number in range(count + 1)]
    bands = [(1 << end) - (1 << start) for start, end in pairwise(edges)]
    return [sum(chosen) for chosen in combinations(bands, min(_SPARE_BANDS, count - 1) or 1)]


def _compare_equal(
    hashes: NDArray[np.uint64], others: NDArray[np.uint64], mask: np.uint64, max_bits: int
) -> Iterator[NDArray[np.int64]]:
    """Compare the hashes that are equal under a mask."""
    order = np.argsort(others & mask, kind="stable")
    keys = (others & mask)[order]
    first, last = (np.searchsorted(keys, hashes & mask, side=side) for side in ("left", "right"))
    ends = np.cumsum(last - first)
    start = 0
    while start < len(hashes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _MAX_PAIRS_AT_ONCE, side="right")))
        counts = (last - first)[start:stop]
        rows = np.repeat(np.arange(start, stop), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = order[np.repeat(first[start:stop], counts) + within]
        differing = np.bitwise_count(hashes[rows] ^ others[columns])
        near = differing <= max_bits
        yield np.stack([rows[near], columns[near], differing[near]], axis=1).astype(np.int64)
        start = stop


def _compare_blocks(
    hashes: NDArray[np.uint64], others: NDArray[np.uint64], max_bits: int
) -> Iterator[NDArray[np.int64]]:
    block = max(1, _MAX_PAIRS_AT_ONCE // max(len(others), 1))
    for start in range(0, len(hashes), block):
        differing = np.bitwise_count(hashes[start : start + block, None] ^ others[None])
        rows, columns = np.nonzero(differing <= max_bits)
        yield np.stack([rows + start, columns, differing[rows, columns]], axis=1).astype(np.int64)


def group_near_duplicates(hashes: NDArray[np.uint64], *, max_bits: int) -> NDArray[np.int64]:
    """Group pictures that near-duplicates connect, directly or through others.

    Parameters
    ----------
    hashes : (N,) uint64
    max_bits : int

    Returns
    -------
    (N,) int64
        Number of each picture's group; a picture without a near-duplicate is a group of its own.

    Examples
    --------
    >>> group_near_duplicates(np.array([0, 255, 1], np.uint64), max_bits=1).tolist()
    [0, 1, 0]
    """
    different, kind = np.unique(hashes, return_inverse=True)  # of equal ones, all pairs would be pairs
    pairs = find_near_duplicates(different, max_bits=max_bits)
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(different),) * 2)
    groups = connected_components(links, directed=False)[1][kind]
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[numbers].astype(np.int64)  # by their first picture
