"""A small VOCdevkit, written as PASCAL VOC's own is: JPEG, palette PNG with 255 borders, XML, lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tiny_folder import draw_picture

from dsrg.labels import build_palette
from dsrg.sources.voc import VOC_CLASSES

XML = """<annotation>
	<folder>VOC2012</folder>
	<filename>{name}.jpg</filename>
	<source><database>The VOC2007 Database</database><image>flickr</image></source>
	<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
	<segmented>1</segmented>
{objects}</annotation>
"""
OBJECT = """	<object>
		<name>{name}</name>
		<pose>Left</pose>
		<truncated>0</truncated>
		<difficult>{difficult}</difficult>
		<bndbox><xmin>9</xmin><ymin>5</ymin><xmax>20</xmax><ymax>12</ymax></bndbox>
		<part><name>head</name><bndbox><xmin>9</xmin><ymin>5</ymin><xmax>12</xmax><ymax>8</ymax></bndbox></part>
	</object>
"""


def write_devkit(
    root: Path, *, train: int = 6, val: int = 3, classes: Sequence[str] = ("cat", "dog"), size: int = 24
) -> Path:
    """Write ``VOCdevkit/VOC2012`` below `root`: pictures 2007_000000, ... of the classes in turn.

    Returns
    -------
    Path
        The year's folder.
    """
    year = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (year / folder).mkdir(parents=True, exist_ok=True)
    names = [f"2007_{number:06d}" for number in range(train + val)]
    for number, name in enumerate(names):
        picture = draw_picture(number, size, size * 4 // 3)
        Image.fromarray(picture).save(year / "JPEGImages" / f"{name}.jpg", quality=95)
        class_name = classes[number % len(classes)]
        write_annotation(year, name, [class_name], size=picture.shape[:2])
        write_mask(
            year / "SegmentationClass" / f"{name}.png",
            draw_mask(VOC_CLASSES.index(class_name) + 1, picture.shape[:2]),
        )
    write_list(year, "train", names[:train])
    write_list(year, "val", names[train:])
    return year


def write_list(year: Path, name: str, names: Sequence[str]) -> None:
    (year / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(names) + "\n")


def write_annotation(
    year: Path,
    name: str,
    objects: Sequence[str],
    *,
    size: Sequence[int] = (24, 32),
    difficult: Sequence[str] = (),
) -> None:
    texts = [OBJECT.format(name=found, difficult=int(found in difficult)) for found in objects]
    text = XML.format(name=name, height=size[0], width=size[1], objects="".join(texts))
    (year / "Annotations" / f"{name}.xml").write_text(text)


def draw_mask(class_id: int, size: Sequence[int]) -> NDArray[np.uint8]:
    """Draw a box of one class within a border of 255, as VOC's annotators left it."""
    height, width = size
    mask = np.zeros((height, width), np.uint8)
    mask[height // 6 - 1 : height // 2 + 1, width // 4 - 1 : width // 2 + 1] = 255
    mask[height // 6 : height // 2, width // 4 : width // 2] = class_id
    return mask


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write a palette PNG with VOC's colours."""
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(mask).convert("P")
    image.putpalette(build_palette().tobytes())
    image.putdata(mask.ravel().tolist())
    image.save(path)
