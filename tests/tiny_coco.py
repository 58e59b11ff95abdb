"""A small COCO: instances JSON with polygons, both kinds of run lengths and a crowd, beside JPEG files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from tiny_folder import draw_picture

CATEGORIES = [
    {"supercategory": "person", "id": 1, "name": "person"},
    {"supercategory": "animal", "id": 17, "name": "cat"},
    {"supercategory": "animal", "id": 18, "name": "dog"},
    {"supercategory": "appliance", "id": 80, "name": "toaster"},
]


def write_coco(root: Path, *, train: int = 6, val: int = 3, size: int = 24) -> Path:
    """Write annotations/, train2017/ and val2017/: cats and dogs in turn, on every third a crowd of people.

    Cats are polygons, dogs compressed run lengths, crowds uncompressed ones. The last picture of either
    split has no annotation.
    """
    number = 0
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for of_split in range(count + 1):
            name = f"{number:012d}.jpg"
            height, width = size, size * 4 // 3
            write_picture(root / f"{split}2017" / name, number, size=(height, width))
            images.append(entry(number, name, height, width))
            if of_split < count:
                kind = number % 2
                annotations.append(annotate(number, 17 + kind, draw_object(kind, height, width)))
                if number % 3 == 2:
                    annotations.append(annotate(number, 1, draw_crowd(height, width), crowd=1))
            number += 1
        write_json(root, f"instances_{split}2017", images, annotations)
    return root


def write_picture(path: Path, number: int, *, size: tuple[int, int] = (24, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_picture(number, *size)).save(path, quality=95)


def write_json(
    root: Path,
    name: str,
    images: list[Any],
    annotations: list[Any],
    *,
    categories: list[Any] = CATEGORIES,
    folder: str = "annotations",
) -> Path:
    """Write an instances JSON; annotations are numbered."""
    path = root / folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    numbered = [{"id": n, **a} if isinstance(a, dict) else a for n, a in enumerate(annotations, start=1)]
    content = {
        "info": {"description": "tiny"},
        "licenses": [],
        "images": images,
        "annotations": numbered,
        "categories": categories,
    }
    path.write_text(json.dumps(content))
    return path


def entry(number: int, name: str, height: int = 24, width: int = 32) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": height, "width": width, "license": 1}


def annotate(image_id: int, category_id: int, segmentation: Any, *, crowd: int = 0) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation,
        "iscrowd": crowd,
        "area": 1.0,
        "bbox": [0.0, 0.0, 1.0, 1.0],
    }


def draw_object(kind: int, height: int, width: int) -> Any:
    """Draw the left half: a polygon (cat), or compressed run lengths (dog)."""
    if kind == 0:
        return [[0.0, 0.0, width / 2, 0.0, width / 2, float(height), 0.0, float(height)]]
    plane = np.zeros((height, width), np.uint8, order="F")
    plane[:, : width // 2] = 1
    runs = coco.encode(plane)
    return {"size": runs["size"], "counts": runs["counts"].decode("ascii")}


def draw_crowd(height: int, width: int) -> dict[str, Any]:
    """Draw the lower right corner, as run lengths down the columns, not compressed."""
    plane = np.zeros((height, width), bool)
    plane[height // 2 :, width // 4 * 3 :] = True
    column = plane.ravel(order="F")
    ends = np.flatnonzero(np.diff(column)) + 1
    counts = np.diff(np.concatenate([[0], ends, [column.size]])).tolist()
    return {"size": [height, width], "counts": counts}
