"""How exported labels lie on disk: one class for each format, named after who reads it.

Lists that a reader begins with (``train.txt``, ``dataset.json``, ``data.yaml``) are written last: an
export that was cut off cannot be taken for a whole one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dsrg import exchange
from dsrg.labels import IGNORE_INDEX, build_palette
from tasks.errors import UserError
from tasks.export_files import encode_png, write_json, write_lines, write_once
from tasks.export_items import Item
from tasks.export_pictures import Kind

FORMATS = ("voc", "coco", "png", "yolo", "nnunet", "zarr")
Segmentation = Literal["rle", "polygons"]
_BACKGROUND = "background"
_JPEG_SUFFIXES = (".jpg", ".jpeg")
_YOLO_SUFFIXES = (*_JPEG_SUFFIXES, ".png", ".bmp", ".webp", ".tif", ".tiff")
_VOC = PurePosixPath("VOCdevkit/VOC2012")
_NNUNET_NAME = re.compile(r"Dataset\d{3}_\w+")


@dataclass(frozen=True)
class Facts:
    """What the lists of an export say of the whole."""

    title: str
    unlabelled: bool


class Layout(Protocol):
    """A format: where pictures and labels go."""

    def name_picture(self, item: Item) -> str:
        """Name the place of a picture, relative to the export."""
        ...

    def fits(self, kind: Kind) -> bool:
        """Tell whether a file may stand there as it is."""
        ...

    def write_labels(self, out: Path, item: Item, label_map: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Write a picture's label map, (H, W) uint8; return what the lists need of it."""
        ...

    def write_lists(
        self, out: Path, items: Sequence[Item], found: Sequence[list[dict[str, Any]]], facts: Facts
    ) -> list[str]:
        """Write what a reader begins with; return how to read the export, and notes."""
        ...


@dataclass(frozen=True)
class Voc:
    """PASCAL VOC's tree, as torchvision's VOCSegmentation and CVAT read it: coloured palette PNGs."""

    classes: tuple[str, ...]

    def name_picture(self, item: Item) -> str:
        """Always .jpg: readers of VOC ask for nothing else."""
        return str(_VOC / "JPEGImages" / f"{item.id}.jpg")

    def fits(self, kind: Kind) -> bool:
        """Take JPEGs only."""
        return kind.format == "JPEG"

    def write_labels(self, out: Path, item: Item, label_map: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Write a PNG in VOC's colours."""
        place = out / _VOC / "SegmentationClass" / f"{item.id}.png"
        write_once(place, lambda: encode_png(label_map, palette=True))
        return []

    def write_lists(
        self, out: Path, items: Sequence[Item], found: Sequence[list[dict[str, Any]]], facts: Facts
    ) -> list[str]:
        """Write classes.txt, CVAT's labelmap.txt and the lists of pictures; val.txt is empty."""
        names = (_BACKGROUND, *self.classes)
        colours = build_palette()
        rows = [f"{n}:{','.join(map(str, colours[k].tolist()))}::" for k, n in enumerate(names)]
        write_lines(out / _VOC / "labelmap.txt", ["# label:color_rgb:parts:actions", *rows])
        write_lines(out / _VOC / "classes.txt", names)
        ids = [item.id for item in items]
        for split, listed in (("val", []), ("trainval", ids), ("train", ids)):
            write_lines(out / _VOC / "ImageSets" / "Segmentation" / f"{split}.txt", listed)
        return [f"torchvision.datasets.VOCSegmentation({str(out)!r}, year='2012', image_set='train')"]


@dataclass(frozen=True)
class Coco:
    """COCO's instances file beside the pictures."""

    classes: tuple[str, ...]
    segmentation: Segmentation
    simplify: float
    min_area: int

    def name_picture(self, item: Item) -> str:
        """Keep the picture's own name."""
        return f"images/{item.file_name}"

    def fits(self, kind: Kind) -> bool:
        """Take any."""
        return True

    def write_labels(self, out: Path, item: Item, label_map: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Return the annotations; they go into the one file."""
        if self.segmentation == "rle":
            return exchange.describe_masks(label_map)
        return exchange.describe_polygons(
            label_map, tolerance=self.simplify * item.scale, min_area=self.min_area
        )

    def write_lists(
        self, out: Path, items: Sequence[Item], found: Sequence[list[dict[str, Any]]], facts: Facts
    ) -> list[str]:
        """Write annotations/instances_train.json; images and annotations are numbered from 1."""
        images = [
            {
                "id": number,
                "file_name": item.file_name,
                "height": item.original_size[0],
                "width": item.original_size[1],
            }
            for number, item in enumerate(items, start=1)
        ]
        numbered = [
            {**annotation, "image_id": number}
            for number, annotations in enumerate(found, start=1)
            for annotation in annotations
        ]
        place = out / "annotations" / "instances_train.json"
        write_json(
            place,
            {
                "info": {"description": facts.title},
                "licenses": [],
                "categories": [
                    {"id": k, "name": name, "supercategory": ""} for k, name in enumerate(self.classes, 1)
                ],
                "images": images,
                "annotations": [{"id": k, **annotation} for k, annotation in enumerate(numbered, start=1)],
            },
        )
        return [f"pycocotools.coco.COCO({str(place)!r})", f"{len(numbered)} annotations", *_tell_lost(facts)]


@dataclass(frozen=True)
class Png:
    """Folders of pictures and of PNGs that hold class ids, as mmsegmentation and Ultralytics read them."""

    classes: tuple[str, ...]
    suffix: str

    def name_picture(self, item: Item) -> str:
        """One suffix for all: mmsegmentation is told one."""
        return f"images/train/{item.id}{self.suffix}"

    def fits(self, kind: Kind) -> bool:
        """Take what the suffix says."""
        return kind.format == ("PNG" if self.suffix == ".png" else "JPEG")

    def write_labels(self, out: Path, item: Item, label_map: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Write a greyscale PNG: a palette would reach some readers as colours."""
        write_once(out / "masks" / "train" / f"{item.id}.png", lambda: encode_png(label_map, palette=False))
        return []

    def write_lists(
        self, out: Path, items: Sequence[Item], found: Sequence[list[dict[str, Any]]], facts: Facts
    ) -> list[str]:
        """Write the list of pictures, class names, and data.yaml for Ultralytics."""
        names = (_BACKGROUND, *self.classes)
        write_lines(out / "classes.txt", names)
        write_lines(out / "train.txt", [item.id for item in items])
        write_lines(out / "data.yaml", _list_yaml(facts, names, "masks_dir: masks"))
        return [
            f"mmsegmentation: data_root={str(out)!r}, img_suffix={self.suffix!r}, reduce_zero_label=False",
            "masks hold class ids as grey levels, so they look black; --format voc gives coloured ones",
        ]


@dataclass(frozen=True)
class Yolo:
    """Ultralytics' segmentation labels: one text file of polygons for each picture."""

    classes: tuple[str, ...]
    simplify: float
    min_area: int

    def name_picture(self, item: Item) -> str:
        """Keep the suffix where Ultralytics knows it."""
        suffix = PurePosixPath(item.file_name).suffix.lower()
        return f"images/train/{item.id}{suffix if suffix in _YOLO_SUFFIXES else '.png'}"

    def fits(self, kind: Kind) -> bool:
        """Take what Ultralytics opens."""
        return kind.format in ("JPEG", "PNG", "BMP", "WEBP", "TIFF")

    def write_labels(self, out: Path, item: Item, label_map: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Write the polygons; an empty file says that there is nothing but background."""

        def draw() -> bytes:
            return exchange.write_yolo_lines(
                label_map, tolerance=self.simplify * item.scale, min_area=self.min_area
            ).encode()

        write_once(out / "labels" / "train" / f"{item.id}.txt", draw)
        return []

    def write_lists(
        self, out: Path, items: Sequence[Item], found: Sequence[list[dict[str, Any]]], facts: Facts
    ) -> list[str]:
        """Write data.yaml; its path is left out, so that the folder can be moved."""
        write_lines(out / "data.yaml", _list_yaml(facts, self.classes))
        return [f"yolo segment train data={out / 'data.yaml'} model=yolo11n-seg.pt", *_tell_lost(facts)]


@dataclass(frozen=True)
class NnUnet:
    """A data set of nnU-Net v2, within the folder that ``nnUNet_raw`` names."""

    classes: tuple[str, ...]

    def name_picture(self, item: Item) -> str:
        """All three channels in one PNG, as nnU-Net wants of colour pictures."""
        return f"imagesTr/{item.id}_0000.png"

    def fits(self, kind: Kind) -> bool:
        """Take RGB PNGs only: every picture must have the same channels."""
        return kind.format == "PNG" and kind.mode == "RGB"

    def write_labels(self, out: Path, item: Item, label_map: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Write a greyscale PNG; unlabelled is the id after the last."""
        ignored = len(self.classes) + 1
        write_once(
            out / "labelsTr" / f"{item.id}.png",
            lambda: encode_png(
                np.where(label_map == IGNORE_INDEX, np.uint8(ignored), label_map), palette=False
            ),
        )
        return []

    def write_lists(
        self, out: Path, items: Sequence[Item], found: Sequence[list[dict[str, Any]]], facts: Facts
    ) -> list[str]:
        """Write dataset.json; ``ignore`` is declared only where something is unlabelled."""
        names = [_BACKGROUND, *self.classes, *(["ignore"] if facts.unlabelled else [])]
        values = {
            "channel_names": {"0": "R", "1": "G", "2": "B"},
            "labels": {name: number for number, name in enumerate(names)},
            "numTraining": len(items),
            "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO",
            "description": facts.title,
        }
        write_json(out / "dataset.json", values)
        place = out.resolve()
        command = f"nnUNetv2_plan_and_preprocess -d {int(place.name[7:10])} --verify_dataset_integrity"
        return [f"nnUNet_raw={place.parent} {command}"]


@dataclass(frozen=True)
class Zarr:
    """One Zarr group with an array for each picture, because sizes differ."""

    classes: tuple[str, ...]

    def name_picture(self, item: Item) -> str:
        """Beside the group, with the picture's own name."""
        return f"images/{item.file_name}"

    def fits(self, kind: Kind) -> bool:
        """Take any."""
        return True

    def write_labels(self, out: Path, item: Item, label_map: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Write the array ``label/ROW`` of a group that is not yet in its place."""
        import zarr

        name = f"label/{item.row:06d}"
        zarr.create_array(
            store=str(_locate_partial(out) / name),
            data=label_map,
            chunks=label_map.shape,
            fill_value=IGNORE_INDEX,
            attributes={"id": item.id, "file_name": item.file_name},
            overwrite=True,
            zarr_format=3,
        )
        return [{"array": name}]

    def write_lists(
        self, out: Path, items: Sequence[Item], found: Sequence[list[dict[str, Any]]], facts: Facts
    ) -> list[str]:
        """Write tables of ids and arrays, then put the group into its place."""
        import zarr

        partial, place = _locate_partial(out), out / "labels.zarr"
        group = zarr.open_group(store=str(partial), mode="a", zarr_format=3)
        group.require_group("label")
        group.attrs.update(
            classes=[_BACKGROUND, *self.classes], unlabelled=IGNORE_INDEX, description=facts.title
        )
        tables = {
            "id": [item.id for item in items],
            "file_name": [item.file_name for item in items],
            "array": [entries[0]["array"] for entries in found],
        }
        for name, values in tables.items():
            table = group.create_array(name, shape=(len(values),), dtype=str, overwrite=True)
            table[:] = np.asarray(values, dtype=object)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
        return [f"zarr.open_group({str(place)!r}, mode='r')['label/{items[0].row:06d}']"]


def build_layout(
    name: str,
    out: Path,
    classes: tuple[str, ...],
    items: Sequence[Item],
    *,
    segmentation: Segmentation,
    simplify: float,
    min_area: int,
) -> Layout:
    """Build the layout of one format.

    Raises
    ------
    UserError
        The format has no room for a class or for the folder's name.
    """
    if name == "voc":
        return Voc(classes)
    if name == "coco":
        return Coco(classes, segmentation, simplify, min_area)
    if name == "png":
        return Png(classes, _choose_suffix(items))
    if name == "yolo":
        return Yolo(classes, simplify, min_area)
    if name == "zarr":
        return Zarr(classes)
    if not _NNUNET_NAME.fullmatch(out.resolve().name):
        raise UserError(
            "--out must be named as nnU-Net names data sets, such as nnUNet_raw/Dataset501_Birds, "
            f"got `{out}`"
        )
    taken = sorted({"background", "ignore"} & set(classes))
    if taken:
        raise UserError(f"nnU-Net keeps the name `{taken[0]}` for itself: rename that class")
    return NnUnet(classes)


def _tell_lost(facts: Facts) -> list[str]:
    lost = "unlabelled pixels are in no annotation, as background is: this format cannot tell them apart"
    return [lost] if facts.unlabelled else []


def _choose_suffix(items: Iterable[Item]) -> str:
    """Choose the suffix that all pictures have already; .jpg where they differ."""
    suffixes = {PurePosixPath(item.file_name).suffix for item in items}
    only = suffixes.pop() if len(suffixes) == 1 else ""
    return only if only in (*_JPEG_SUFFIXES, ".png") else ".jpg"


def _list_yaml(facts: Facts, names: Sequence[str], *more: str) -> Iterator[str]:
    """List the lines of Ultralytics' data.yaml; JSON strings are YAML's too."""
    yield f"# {facts.title}"
    yield "train: images/train"
    yield "# No labels are made for other pictures: name here some with labels of your own. Until then scores"
    yield "# only say how well these labels are learned."
    yield "val: images/train"
    yield from more
    yield "names:"
    for number, name in enumerate(names):
        yield f"  {number}: {json.dumps(name, ensure_ascii=False)}"


def _locate_partial(out: Path) -> Path:
    return out / ".labels.zarr.partial"
