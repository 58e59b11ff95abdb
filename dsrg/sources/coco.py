"""Source ``coco``: instances JSON files and directories of pictures, as COCO publishes them.

Two layouts are read:

* ``annotations/instances_train*.json`` and ``annotations/instances_val*.json``, or one of them alone.
* one JSON in the folder itself, with the pictures in ``images/`` or beside it.

The pictures of ``instances_train2017.json`` lie in ``train2017/``, ``images/train2017/`` or ``images/``.
With a train and a val file the split is theirs; with one file ingest chooses it.

Image labels are the categories of a picture's annotations, crowds included. Outlines are for the truth
alone: they are drawn when the picture's mask is asked for, the smaller object over the larger, crowd
regions as 255 (ignored).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dsrg.image import DecodeError
from dsrg.labels import IGNORE_INDEX
from dsrg.sources.base import (
    SPLITS,
    FileReader,
    Source,
    SourceError,
    count_things,
    digest_records,
    listing,
    make_id,
)
from dsrg.sources.coco_classes import Grouping, group_categories
from dsrg.sources.coco_json import Annotation, Instances, read_instances
from dsrg.sources.records import Record, list_clashes, pack_records
from dsrg.sources.regions import Drawing, Region, draw_regions

_LAYOUT = (
    "expected annotations/instances_train*.json and annotations/instances_val*.json with the pictures in "
    "train*/ and val*/, or one JSON with the pictures in images/"
)
_OWN_NAMES = ("labels.json",)


@dataclass(frozen=True)
class CocoReader(FileReader):
    """Reads a picture's file, and draws its mask out of what its record carries."""

    def read_gt_label(self, record: Record) -> NDArray[np.uint8] | None:
        """Draw one mask: (H, W) uint8, or None where an annotation of the picture has no outline."""
        if not isinstance(record.mask, Drawing):
            return None
        try:
            return draw_regions(record.mask.regions, record.mask.size)
        except ValueError as error:
            raise DecodeError(str(error)) from error


def find_files(path: Path) -> dict[str, Path]:
    """Find the instances JSON files of a folder, by split; the key is empty for a file that is both.

    Empty where there is none.
    """
    named = sorted((path / "annotations").glob("instances_*.json"))
    by_split = {
        split: [file for file in named if file.name.startswith(f"instances_{split}")] for split in SPLITS
    }
    if any(by_split.values()):
        many = [files for files in by_split.values() if len(files) > 1]
        if many:
            names = ", ".join(file.name for file in many[0])
            raise SourceError(str(path), [f"annotations/ holds {names}: leave one of them there"])
        found = {split: files[0] for split, files in by_split.items() if files}
        return found if len(found) == 2 else {"": next(iter(found.values()))}
    loose = named or [file for file in sorted(path.glob("*.json")) if file.name not in _OWN_NAMES]
    if len(loose) > 1:
        names = ", ".join(file.name for file in loose)
        raise SourceError(
            str(path),
            [f"holds {names}: leave one, or name two annotations/instances_train.json and _val.json"],
        )
    return {"": loose[0]} if loose else {}


def open_coco(path: Path, *, categories: Sequence[str] = ()) -> Source:
    """List the pictures of COCO's instances files without decoding any.

    Parameters
    ----------
    path : Path
        The folder; see the module for its layouts.
    categories : sequence of str
        Names of categories, and of supercategories, whose categories become one class. Empty: all
        categories that occur. Classes are in the order of COCO's ids; pictures without any of them are
        left out, and what the other categories cover counts as background.

    Returns
    -------
    Source
        Single bad entries stand in ``problems``.

    Raises
    ------
    SourceError
        No such folder or layout, no valid JSON, or a category that there is not.
    """
    with listing(path, f"the folder: {_LAYOUT}", file="is a file: give the folder that it lies in"):
        files = find_files(path)
        if not files:
            raise SourceError(str(path), [f"no instances JSON: {_LAYOUT}"])
        found = _Found()
        read = {}
        for split, file in files.items():
            read[split], problems = read_instances(file)
            found.problems += problems
        grouping = group_categories(str(path), tuple(read.values()), categories)
        for split, instances in read.items():
            _list_pictures(path, split, instances, grouping, found)
        if not found.records:
            raise SourceError(str(path), found.problems or ["no picture has any of the categories"])
        records = pack_records(sorted(found.records, key=lambda record: record.id))
        lists = tuple(files.values())
        fingerprint = digest_records(grouping.classes, records, lists)
    return Source(
        kind="coco",
        where=str(path),
        classes=grouping.classes,
        records=records,
        reader=CocoReader(),
        gt_available=bool(records.have("mask").any()),
        problems=(*found.problems, *list_clashes(records)),
        home=" or ".join(file.name for file in lists),
        way_out="take it out of `source.categories`, or annotate some",
        remarks=(*grouping.remarks, *found.remarks),
        fingerprint=fingerprint,
    )


@dataclass
class _Found:
    """What listing has found so far."""

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def _list_pictures(path: Path, split: str, instances: Instances, grouping: Grouping, found: _Found) -> None:
    """List the pictures of one file that hold a wanted category."""
    name = instances.path.name
    folders = _list_folders(path, instances.path)
    of_picture: dict[int | str, list[Annotation]] = defaultdict(list)
    for annotation in instances.annotations:
        if annotation.category_id in grouping.class_ids:
            of_picture[annotation.picture_id].append(annotation)
    listed = [picture for picture in instances.pictures if picture.id in of_picture]
    files = [_find_picture(folders, picture.file_name) for picture in listed]
    places = " or ".join(_show_folder(path, folder) for folder in folders)
    if listed and not any(files):
        found.problems.append(
            f"{name}: none of its {len(listed)} pictures is in {places}: put them into "
            f"`{_name_folder(instances.path)}/` or `images/`, or take {name} away"
        )
        return
    without_outline = 0
    for picture, file in zip(listed, files, strict=True):
        place = f"{name} (`{picture.file_name}`)"
        if file is None:
            found.problems.append(f"{place}: no such picture in {places}: add it, or take its entry out")
            continue
        annotations = of_picture[picture.id]
        image_labels = np.zeros(len(grouping.classes), bool)
        image_labels[[grouping.class_ids[annotation.category_id] - 1 for annotation in annotations]] = True
        regions = _list_regions(annotations, grouping)
        without_outline += regions is None
        if regions is not None and picture.size is None:
            found.problems.append(f"{place}: has no `height` and `width`: its mask cannot be drawn")
        found.records.append(
            Record(
                id=make_id(picture.file_name),
                split=split,
                image_labels=image_labels,
                name=file.relative_to(path).as_posix(),
                picture=file,
                mask=None if regions is None or picture.size is None else Drawing(picture.size, regions),
                mask_name=place,
            )
        )
    left_out = len(instances.pictures) - len(listed)
    if left_out:
        found.remarks.append(
            f"{name}: {count_things(left_out, 'picture')} without any of the categories, left out"
        )
    if without_outline:
        found.remarks.append(
            f"{name}: {count_things(without_outline, 'picture')} with an annotation without segmentation: "
            "not scored"
        )


def _list_regions(annotations: Sequence[Annotation], grouping: Grouping) -> tuple[Region, ...] | None:
    """List what covers what; None where an annotation does not say it, and the mask would lie."""
    regions = []
    for annotation in annotations:
        if annotation.outline is None:
            return None
        class_id = IGNORE_INDEX if annotation.crowd else grouping.class_ids[annotation.category_id]
        regions.append(Region(class_id, annotation.outline))
    return tuple(regions)


def _list_folders(path: Path, file: Path) -> list[Path]:
    """List the folders where the pictures of ``instances_train2017.json`` may lie."""
    name = _name_folder(file)
    candidates = [path / name, path / "images" / name, path / "images", path]
    return [folder for folder in candidates[:-1] if folder.is_dir()] or [path]


def _name_folder(file: Path) -> str:
    return file.stem.removeprefix("instances_")


def _show_folder(path: Path, folder: Path) -> str:
    return f"`{folder.relative_to(path).as_posix()}/`" if folder != path else f"`{path.name}`"


def _find_picture(folders: Sequence[Path], name: str) -> Path | None:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts:
        return None
    return next((folder / pure for folder in folders if (folder / pure).is_file()), None)
