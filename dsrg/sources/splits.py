"""The split of a data set that comes without one."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def choose_splits(
    ids: Sequence[str],
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
    ids : sequence of N str
    image_labels : (N, K) bool
        Not modified.
    groups : (N,) int64
        Pictures of one number stay together.
    val_fraction : float
        In (0, 1).

    Returns
    -------
    (N,) str
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[int(group)].append(row)
    strata: dict[int, list[list[int]]] = defaultdict(list)
    rarity = np.argsort(np.argsort(image_labels.sum(axis=0), kind="stable"), kind="stable")
    for rows in members.values():
        rows.sort(key=lambda row: _hash_id(ids[row]))
        held = np.flatnonzero(image_labels[rows[0]])
        strata[int(held[np.argmin(rarity[held])]) if len(held) else -1].append(rows)
    splits = np.full(len(ids), "train", dtype="<U5")
    for stratum in strata.values():
        splits[_pick_rows(stratum, ids, val_fraction)] = "val"
    for missing in np.flatnonzero(~image_labels[splits == "train"].any(axis=0) & image_labels.any(axis=0)):
        if not image_labels[splits == "train", missing].any():
            holders = np.flatnonzero(image_labels[:, missing]).tolist()
            first = min(holders, key=lambda row: _hash_id(ids[row]))
            splits[members[int(groups[first])]] = "train"
    return splits


def _pick_rows(stratum: list[list[int]], ids: Sequence[str], val_fraction: float) -> list[int]:
    if len(stratum) < 2:
        return []
    stratum.sort(key=lambda rows: _hash_id(ids[rows[0]]))
    wanted = max(1, round(val_fraction * sum(len(rows) for rows in stratum)))
    picked: list[int] = []
    taken = 0
    for rows in stratum:
        if len(picked) + len(rows) <= wanted and taken < len(stratum) - 1:
            picked += rows
            taken += 1
    return picked or min(stratum, key=len)


def _hash_id(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
