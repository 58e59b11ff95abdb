"""Data sets that benches make up: what stands in an index, without pixels."""

from __future__ import annotations

import numpy as np

from dsrg.store import Index


def build_index(count: int, *, size: tuple[int, int]) -> Index:
    """Build the index of so many training pictures of one size and one class."""
    sizes = np.tile(np.array(size, np.int32), (count, 1))
    return Index(
        classes=("thing",),
        ids=np.array([f"{number:06d}" for number in range(count)]),
        splits=np.full(count, "train"),
        sizes=sizes,
        original_sizes=sizes,
        image_labels=np.ones((count, 1), bool),
    )
