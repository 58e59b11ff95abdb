"""A workspace with pictures of all kinds and made-up label maps: what an export starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tiny_folder import draw_picture
from tiny_project import build_params as build_tiny_params
from tiny_project import run_stage, write_params

from dsrg.groups import finish_store
from dsrg.store import ImageStore, create_label_store
from tasks.params import Params
from tasks.workspace import Workspace

CANVAS = 64
# file, height, width, kind: larger than the canvas, odd, grey, turned by EXIF, transparent, one pixel high
PICTURES = (
    ("plain.jpg", 48, 64, "RGB"),
    ("large.jpg", 301, 203, "RGB"),
    ("grey.png", 33, 47, "L"),
    ("sub folder/two words.jpeg", 61, 64, "RGB"),
    ("sub folder/grüße 写真.png", 40, 90, "RGBA"),
    ("turned.jpg", 50, 80, "turned"),
    ("flat.bmp", 1, 64, "RGB"),
    ("deep.png", 40, 40, "I;16"),
    ("more.dots.v2.jpg", 64, 64, "RGB"),
    ("only background.jpg", 32, 32, "RGB"),
)
CLASSES = ("cat", "dog: big", "señal")
VAL = ("val0.jpg", "val1.jpg")


def write_pictures(root: Path) -> Path:
    """Write the folder, in the layout of source ``folder``; masks are there but of no use."""
    lines = ["id,classes,split"]
    (root / "masks").mkdir(parents=True)
    for number, (name, height, width, kind) in enumerate(PICTURES):
        save_picture(root / "images" / name, draw_picture(number, height, width), kind)
        names = (CLASSES[number % 3], CLASSES[(number + 1) % 3])
        held = "background" if name.startswith("only") else "|".join(names)
        lines.append(f"{name},{held},train")
    for number, name in enumerate(VAL):
        save_picture(root / "images" / name, draw_picture(100 + number, 32, 40), "RGB")
        lines.append(f"{name},{CLASSES[number]},val")
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "classes.txt").write_text("\n".join(["background", *CLASSES]) + "\n", encoding="utf-8")
    Image.fromarray(np.full((48, 64), 1, np.uint8)).save(root / "masks" / "plain.png")
    return root


def save_picture(place: Path, image: NDArray[np.uint8], kind: str) -> None:
    """Save a picture so that it is shown as `image`, in one of the kinds that people have."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "I;16":
        Image.fromarray(image[..., 0].astype(np.uint16) * 257).save(place)
        return
    picture = Image.fromarray(image).convert("RGB" if kind == "turned" else kind)
    if kind != "turned":
        picture.save(place)
        return
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(place, exif=exif)


def draw_label_map(row: int, size: tuple[int, int], present: list[int]) -> NDArray[np.uint8]:
    """Draw stripes of the present classes, with a hole of background and a patch without a label."""
    height, width = size
    label_map = np.zeros(size, np.uint8)
    for number, class_id in enumerate(c for c in present if c):
        label_map[height * number // 3 : height * (number + 1) // 3, row % 3 : width * 2 // 3] = class_id
    label_map[height // 8 : height // 5, width // 5 : width // 3] = 0
    label_map[height // 3 :, width // 2 :] = 255
    return label_map


def build_labelled(root: Path, **changes: Any) -> tuple[Params, Workspace]:
    """Build a workspace: pictures ingested, and two rounds of label maps that no network drew."""
    data = write_pictures(root / "data set")
    source = {"kind": "folder", "path": str(data)}
    ingest = {"canvas": CANVAS, "strict": False}
    params = build_tiny_params(source=source, ingest=ingest, **changes)
    workspace = Workspace(root)
    write_params(params, root)
    run_stage(params, workspace, "ingest")
    for key in params.round_keys:
        write_label_store(workspace, f"data/rounds/{key}/pseudo_labels.zarr", "pseudo_label", digest=key)
        write_label_store(workspace, f"data/rounds/{key}/seeds.zarr", "seed", digest=f"seed {key}")
    write_label_store(workspace, "data/cues.zarr", "cue", digest="cues")
    return params, workspace


def write_label_store(workspace: Workspace, relative: str, array: str, *, digest: str) -> Path:
    """Write a store of drawn label maps of all training pictures."""
    images = ImageStore(workspace.path("data/images.zarr"))
    index = images.index
    place = workspace.path(relative)
    maps = create_label_store(place, array, count=len(images), canvas=images.canvas, attributes={})
    for row in index.rows("train").tolist():
        height, width = map(int, index.sizes[row])
        present = [0, *(np.flatnonzero(index.image_labels[row]) + 1).tolist()]
        block = np.full((images.canvas, images.canvas), 255, np.uint8)
        block[:height, :width] = draw_label_map(row, (height, width), present)
        maps[row] = block
    finish_store(place, digest=digest)
    return place
