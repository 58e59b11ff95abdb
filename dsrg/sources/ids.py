"""The class ids that a mask holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsrg.image import DecodeError
from dsrg.labels import BACKGROUND, IGNORE_INDEX


def check_ids(mask: NDArray[np.uint8], *, num_classes: int) -> None:
    """Refuse a mask, (H, W), with ids that no class has.

    Raises
    ------
    DecodeError
    """
    strange = [int(v) for v in np.unique(mask) if v >= num_classes and v != IGNORE_INDEX]
    if strange:
        raise DecodeError(
            f"holds {', '.join(map(str, strange[:8]))}: ids go from 0 to {num_classes - 1} "
            f"({num_classes - 1} classes), {IGNORE_INDEX} is ignored"
        )


def list_held(gt_label: NDArray[np.uint8]) -> list[int]:
    """List the foreground class ids that a mask holds, sorted."""
    return [int(value) for value in np.unique(gt_label) if value not in (BACKGROUND, IGNORE_INDEX)]
