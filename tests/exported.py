"""Exports of made-up labels, and what each must hold."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.store import ImageStore, LabelStore
from tasks.export_labels import Settings, export_labels
from tasks.params import Params
from tasks.workspace import Workspace


def export(labelled: tuple[Params, Workspace], out: Path, format_: str, **settings: Any) -> dict[str, Any]:
    return export_labels(*labelled, out, Settings(format=format_, **settings))


def expect_maps(
    labelled: tuple[Params, Workspace], store: str = "data/rounds/2/pseudo_labels.zarr"
) -> dict[str, NDArray[np.uint8]]:
    """The label maps at the size of the pictures, put together here another way: pixel by pixel."""
    _, workspace = labelled
    images = ImageStore(workspace.path("data/images.zarr"))
    labels = LabelStore(workspace.path(store), "pseudo_label", stage="refine")
    index, found = images.index, {}
    for row in index.rows("train").tolist():
        (height, width), (tall, wide) = index.sizes[row], index.original_sizes[row]
        rows = np.array([floor(Fraction(2 * y + 1, 2) * int(height) / int(tall)) for y in range(tall)])
        columns = np.array([floor(Fraction(2 * x + 1, 2) * int(width) / int(wide)) for x in range(wide)])
        found[str(index.ids[row])] = labels.read(row, (height, width))[rows[:, None], columns[None]]
    return found


def list_files(root: Path) -> set[str]:
    return {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
