"""The split of a data set that comes without one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_HASH = np.dtype("S32")


def choose_splits(
    ids: Sequence[str] | NDArray[np.str_],
    image_labels: NDArray[np.bool_],
    groups: NDArray[np.int64],
    *,
    val_fraction: float,
) -> NDArray[np.str_]:
    """Choose ``train`` or ``val`` for every picture, by the hash of its id, alike for every class.

    Pictures are put into one stratum per class, each under the rarest class that it holds. Of every
    stratum the pictures whose hash is lowest go to ``val``, until it has its share; groups (of
    near-duplicates) go as a whole, and one that would overshoot the share stays in ``train``. A stratum
    of two groups or more has at least one on each side. A class that would be left without a training
    picture, because it occurs beside rarer classes only, gets its first group back from ``val``.

    Parameters
    ----------
    ids : (N,) str, or a sequence of such
    image_labels : (N, K) bool
        Not modified.
    groups : (N,) int64
        Pictures of one number, which is not negative, stay together.
    val_fraction : float
        In (0, 1).

    Returns
    -------
    (N,) str
    """
    hashes = np.fromiter((_hash_id(str(name)) for name in ids), _HASH, len(ids))
    order = np.lexsort((hashes, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    firsts = order[starts]  # of every group the picture whose hash is lowest
    counts = np.diff(starts, append=len(order))
    rarity = np.argsort(np.argsort(image_labels.sum(axis=0), kind="stable"), kind="stable")
    none = len(rarity)
    strata = np.where(image_labels[firsts], rarity, none).min(axis=1, initial=none)
    in_val = np.zeros(len(starts), bool)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        rows = rows[np.argsort(hashes[firsts[rows]])]
        in_val[rows[_pick_groups(counts[rows], val_fraction)]] = True
    splits = np.full(len(ids), "train", dtype="<U5")
    splits[order[np.repeat(in_val, counts)]] = "val"
    for missing in np.flatnonzero(~image_labels[splits == "train"].any(axis=0) & image_labels.any(axis=0)):
        if not image_labels[splits == "train", missing].any():
            holders = np.flatnonzero(image_labels[:, missing])
            first = holders[np.argmin(hashes[holders])]
            splits[groups == groups[first]] = "train"
    return splits


def _pick_groups(counts: NDArray[np.int64], val_fraction: float) -> list[int]:
    """Pick the groups of one stratum, of so many pictures each, that go to ``val``."""
    if len(counts) < 2:
        return []
    wanted = max(1, round(val_fraction * int(counts.sum())))
    picked: list[int] = []
    total = 0
    for number, count in enumerate(counts.tolist()):
        if total + count <= wanted and len(picked) < len(counts) - 1:
            picked.append(number)
            total += count
    return picked or [int(counts.argmin())]


def _hash_id(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
