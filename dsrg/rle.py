"""Run-length encoding of masks, as COCO stores them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_OFFSET, _BITS = 48, 5


def count_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Count the lengths of runs of equal pixels, column by column, the first run being of False.

    Parameters
    ----------
    mask : (H, W) bool
        Not modified.

    Returns
    -------
    list of int
        Adds up to ``H * W``; begins with 0 where the first pixel is True.

    Examples
    --------
    >>> count_runs(np.array([[True, False], [True, True]]))
    [0, 2, 1, 1]
    """
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate([[0], changes, [pixels.size]])
    runs: list[int] = np.diff(edges).tolist()
    return [0, *runs] if pixels.size and pixels[0] else runs


def encode_mask(mask: NDArray[np.bool_]) -> str:
    """Encode a mask as COCO's compressed string of run lengths.

    Parameters
    ----------
    mask : (H, W) bool
        Not modified.

    Returns
    -------
    str
        The ``counts`` of a COCO segmentation; its ``size`` is ``[H, W]``.
    """
    return _compress(count_runs(mask))


def _compress(runs: Iterable[int]) -> str:
    """Write each run, from the fourth on as difference to the one before last, in printable groups of 5 bits.

    Notes
    -----
    As ``rleToString`` of the COCO API's ``maskApi.c``: low bits first, bit 6 says that more follow, the
    highest bit of the last group is the sign.
    """
    written = bytearray()
    known: list[int] = []
    for number, run in enumerate(runs):
        left = run - known[number - 2] if number > 2 else run
        known.append(run)
        more = True
        while more:
            group = left & 0x1F
            left >>= _BITS
            more = left != -1 if group & 0x10 else left != 0
            written.append((group | 0x20 if more else group) + _OFFSET)
    return written.decode("ascii")
