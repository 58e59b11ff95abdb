"""A small folder of pictures in the layout of source ``folder``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.params import Params, read_params

CANVAS = 64


def draw_picture(number: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Draw broad random waves: pictures of different numbers look different."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def write_data(root: Path, count: int = 6, *, masks: bool = True, split: bool = True) -> Path:
    """Write a folder: pictures p00, p01, ... of classes x and y in turn, every third in split val."""
    (root / "images").mkdir(parents=True)
    lines = ["id,classes,split" if split else "id,classes"]
    for number in range(count):
        Image.fromarray(draw_picture(number)).save(root / "images" / f"p{number:02d}.png")
        name = "xy"[number % 2]
        lines.append(f"p{number:02d},{name}" + (",val" if number % 3 == 2 else ",train") * split)
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").write_text("background\nx\ny\n")
    if masks:
        write_masks(root, count)
    return root


def write_masks(root: Path, count: int) -> None:
    (root / "masks").mkdir()
    for number in range(count):
        mask = np.zeros((24, 32), np.uint8)
        mask[4:12, 8:20], mask[0, 0] = number % 2 + 1, 255
        Image.fromarray(mask).save(root / "masks" / f"p{number:02d}.png")


def build_params(project_root: Path, data: Path, *, workers: int = 1, **ingest_values: Any) -> Params:
    """The project's own params, for a folder of small pictures."""
    params = read_params(project_root / "params.yaml")
    source = params.source.model_copy(update={"kind": "folder", "path": str(data)})
    values = {
        "canvas": CANVAS,
        "strict": False,
        "near_duplicate_bits": 4,
        "val_fraction": 0.25,
        **ingest_values,
    }
    return params.model_copy(
        update={
            "source": source,
            "ingest": params.ingest.model_copy(update=values),
            "compute": params.compute.model_copy(update={"workers": workers}),
        }
    )
