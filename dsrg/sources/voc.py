"""Source ``voc``: a VOCdevkit directory as PASCAL VOC publishes it, and as the field extends it.

Read are ``ImageSets/Segmentation`` (``trainaug.txt`` or ``train_aug.txt`` where there is one, else
``train.txt``; and ``val.txt``), ``JPEGImages``, ``Annotations`` and, for the truth alone,
``SegmentationClassAug`` and ``SegmentationClass``, the first that holds the picture.

Image labels come from the objects of ``Annotations/*.xml``, those marked ``difficult`` and ``truncated``
included, as in the field's own code: an image label says that a class occurs, however hard it is to see.
Only where the user asks by name do they come from masks.

Classes are VOC's twenty, in VOC's order, as long as no other name occurs; those that no picture holds are
left out, and their pixels in masks are ignored. ``classes.txt`` beside ``JPEGImages`` (first line
``background``) names other classes and their ids in masks; without it they are the sorted names.

References
----------
Objects of all kinds make image labels: ``load_image_label_from_xml`` in ``voc12/dataloader.py`` of
AffinityNet (Ahn and Kwak, CVPR 2018) and IRNet (Ahn et al., CVPR 2019).
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dsrg.image import DecodeError, read_mask
from dsrg.labels import BACKGROUND, IGNORE_INDEX
from dsrg.places import fetch, is_remote
from dsrg.sources.base import (
    FileReader,
    Source,
    SourceError,
    count_things,
    digest_records,
    listing,
    make_id,
)
from dsrg.sources.files import Files, index_files, strip_suffix
from dsrg.sources.ids import check_ids, list_held
from dsrg.sources.lists import check_classes, describe_unknown, read_classes, read_text
from dsrg.sources.records import Record, is_file, list_clashes, pack_records

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
LISTS = {"train": ("trainaug.txt", "train_aug.txt", "train.txt"), "val": ("val.txt",)}
MASKS = ("SegmentationClassAug", "SegmentationClass")
_BY_MASKS = "set source.image_labels=masks, which makes image labels from the masks"
_LAYOUT = (
    "expected VOCdevkit/VOC2012 with JPEGImages, Annotations, ImageSets/Segmentation and SegmentationClass"
)


@dataclass(frozen=True)
class VocReader(FileReader):
    """Reads the files that a record names; ids of masks become class ids.

    Attributes
    ----------
    class_ids : tuple of int
        For every id that may stand in a mask the class id, or 255 where it is no class.
    """

    class_ids: tuple[int, ...]

    def read_gt_label(self, record: Record) -> NDArray[np.uint8] | None:
        """Read one mask: (H, W) uint8, or None where there is none."""
        if not is_file(record.mask):
            return None
        stored = read_mask(record.mask)
        check_ids(stored, num_classes=len(self.class_ids))
        table = np.full(256, IGNORE_INDEX, np.uint8)
        table[: len(self.class_ids)] = self.class_ids
        return table[stored]


def find_devkits(path: Path) -> list[Path]:
    """Find the years of a devkit: `path` itself, one in it, or one in the ``VOCdevkit`` in it."""
    if (path / "ImageSets" / "Segmentation").is_dir():
        return [path]
    return sorted(
        found.parent.parent
        for pattern in ("*/ImageSets/Segmentation", "VOCdevkit/*/ImageSets/Segmentation")
        for found in path.glob(pattern)
        if found.is_dir()
    )


def open_voc(path: Path, *, image_labels: str = "xml") -> Source:
    """List the pictures of a VOCdevkit directory without decoding any.

    Parameters
    ----------
    path : Path
        The year's folder (``VOCdevkit/VOC2012``), ``VOCdevkit``, or the folder that holds it.
    image_labels : str
        ``xml``: from the objects of the annotations. ``masks``: from the class ids in the masks, which
        are decoded for that; the image labels are then made from the truth, as in much of the field,
        but still say no more than which classes occur.

    Returns
    -------
    Source
        Single bad entries stand in ``problems``.

    Raises
    ------
    SourceError
        No such folder or layout, or a list that makes no sense as a whole.
    """
    with listing(path, f"the devkit: {_LAYOUT}"):
        found = find_devkits(path)
        if len(found) != 1:
            names = ", ".join(folder.name for folder in found)
            what = f"holds {names}: set `source.path` to one of them" if found else f"no VOC: {_LAYOUT}"
            raise SourceError(str(path), [what])
        return _list_year(found[0], image_labels=image_labels)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A picture of a list: its file below ``JPEGImages``, and how an error calls its line."""

    name: str
    split: str
    place: str
    mask: Path | None

    @property
    def stem(self) -> str:
        return strip_suffix(self.name)

    @property
    def mask_name(self) -> str:
        return f"{self.mask.parent.name}/{self.mask.name}" if self.mask else ""


def _list_year(root: Path, *, image_labels: str) -> Source:
    if not (root / "JPEGImages").is_dir():
        raise SourceError(str(root), [f"has no JPEGImages: {_LAYOUT}"])
    problems: list[str] = []
    remarks: list[str] = []
    files = index_files(root / "JPEGImages")
    entries = _read_lists(root, files, problems, remarks)
    given = read_classes(root / "classes.txt") if (root / "classes.txt").is_file() else None
    if image_labels == "masks":
        remarks.append("image labels are made from the masks (source.image_labels: masks)")
        names = given or VOC_CLASSES
        held = [_read_mask_names(entry, names, problems) for entry in entries]
    else:
        held = _read_objects(root, entries, problems)
        names = given or _name_classes({name for found in held for name in found})
        problems += _find_strangers(entries, held, names)
    used = {name for found in held for name in found}
    classes = given or tuple(name for name in names if name in used)
    if problems and not classes:
        raise SourceError(str(root), problems)
    check_classes(str(root), classes)
    if len(classes) < len(names):
        unused = ", ".join(name for name in names if name not in used)
        remarks.append(f"no picture holds {unused}: no classes here, and ignored in masks")
    pairs = sorted(zip(entries, held, strict=True), key=lambda pair: make_id(pair[0].name))
    records = pack_records(_build_record(files.root, entry, found, classes) for entry, found in pairs)
    return Source(
        kind="voc",
        where=str(root),
        classes=classes,
        records=records,
        reader=VocReader(_map_ids(names, classes)),
        gt_available=bool(records.have("mask").any()),
        problems=(*problems, *list_clashes(records)),
        without_class=tuple(
            f"JPEGImages/{entry.name}"
            for entry, found in zip(entries, held, strict=True)
            if not found and image_labels == "xml"
        ),
        way_out="add some, or take it out of classes.txt (ids in masks follow the line numbers)",
        remarks=tuple(remarks),
        fingerprint=digest_records(classes, records),
    )


def _build_record(folder: Path, entry: _Entry, held: set[str], classes: Sequence[str]) -> Record:
    return Record(
        id=make_id(entry.name),
        split=entry.split,
        image_labels=np.array([name in held for name in classes], bool),
        name=f"JPEGImages/{entry.name}",
        picture=folder / entry.name,
        mask=entry.mask,
        mask_name=entry.mask_name,
    )


# -- lists -------------------------------------------------------------------------------------


def _read_lists(root: Path, files: Files, problems: list[str], remarks: list[str]) -> list[_Entry]:
    """Read the lists of both splits; a picture in both would be trained on and scored."""
    folder = root / "ImageSets" / "Segmentation"
    entries: dict[str, _Entry] = {}
    for split, names in LISTS.items():
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise SourceError(
                str(root), [f"has no ImageSets/Segmentation/{names[-1]}: write one name a line, no suffix"]
            )
        count = len(entries)
        twice = 0
        for written in _read_names(path):
            place = f"{path.name} (`{written}`)"
            try:
                name = files.find(written)
            except LookupError as error:
                problems.append(f"{place}: {error.args[0]}")
                continue
            if name not in entries:
                entries[name] = _Entry(name, split, place, _find_mask(root, name))
            elif entries[name].split == split:
                twice += 1
            else:
                problems.append(f"{place}: stands in {entries[name].place.split()[0]}, too: keep one")
        remarks.append(
            f"{split}: {count_things(len(entries) - count, 'picture')} of ImageSets/Segmentation/{path.name}"
        )
        if twice:
            remarks.append(
                f"{path.name}: {count_things(twice, 'line')} with a name that stands there already"
            )
    if not entries:
        raise SourceError(str(root), problems or ["the lists are empty: write one name a line"])
    return list(entries.values())


def _read_names(path: Path) -> list[str]:
    """Read names of pictures; lines such as ``/JPEGImages/a.jpg /SegmentationClassAug/a.png`` name a."""
    lines = [line.split() for line in read_text(path).splitlines()]
    return [PurePosixPath(words[0]).stem if "/" in words[0] else words[0] for words in lines if words]


def _find_mask(root: Path, name: str) -> Path | None:
    masks = (root / folder / f"{strip_suffix(name)}.png" for folder in MASKS)
    return next((mask for mask in masks if mask.is_file()), None)


# -- image labels ------------------------------------------------------------------------------


def _read_objects(root: Path, entries: Sequence[_Entry], problems: list[str]) -> list[set[str]]:
    """Read the names of the objects in every picture's annotation; parts of objects are none."""
    folder = root / "Annotations"
    if not folder.is_dir():
        problems.append(f"has no Annotations to take image labels from: add them, or {_BY_MASKS}")
        return [set() for _ in entries]
    paths = [folder / f"{entry.stem}.xml" for entry in entries]
    away = fetch(paths) if is_remote(folder) else [None] * len(paths)
    return [
        _read_object_names(path, content, entry, problems)
        for path, content, entry in zip(paths, away, entries, strict=True)
    ]


def _read_object_names(path: Path, content: bytes | None, entry: _Entry, problems: list[str]) -> set[str]:
    """Read the names of one annotation, whose `content` is given if it lies under a URL."""
    try:
        tree = ET.parse(path if content is None else io.BytesIO(content))  # noqa: S314 - expat itself ends entities that grow, and fetches none
    except FileNotFoundError:
        problems.append(
            f"{entry.place}: no Annotations/{path.name} to take image labels from: add it, or {_BY_MASKS}"
        )
        return set()
    except (ET.ParseError, ValueError, LookupError) as error:  # the latter two: of its encoding
        problems.append(f"Annotations/{path.name}: is no valid XML ({error}): mend it")
        return set()
    names = {(found.findtext("name") or "").strip() for found in tree.getroot().findall("object")}
    if "" in names:
        problems.append(f"Annotations/{path.name}: an object has no name: give it one, or take it out")
    return names - {""}


def _name_classes(used: set[str]) -> tuple[str, ...]:
    return VOC_CLASSES if used <= set(VOC_CLASSES) else tuple(sorted(used))


def _find_strangers(
    entries: Sequence[_Entry], held: Sequence[set[str]], names: Sequence[str]
) -> Iterator[str]:
    for entry, found in zip(entries, held, strict=True):
        for name in sorted(found.difference(names)):
            yield f"Annotations/{entry.stem}.xml: {describe_unknown(name, names)}"


def _read_mask_names(entry: _Entry, names: Sequence[str], problems: list[str]) -> set[str]:
    """Read which classes a mask holds. The one place where image labels are made from the truth."""
    if entry.mask is None:
        problems.append(
            f"{entry.place}: no mask in {' or '.join(MASKS)} to take image labels from: add it, "
            "or take it out of the list"
        )
        return set()
    try:
        stored = read_mask(entry.mask)
        check_ids(stored, num_classes=len(names) + 1)
    except DecodeError as error:
        problems.append(f"{entry.mask_name}: {error}")
        return set()
    return {names[class_id - 1] for class_id in list_held(stored)}


def _map_ids(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Map the ids of masks, which follow `names`, to class ids, which follow `classes`."""
    class_ids = {name: number for number, name in enumerate(classes, start=1)}
    return (BACKGROUND, *(class_ids.get(name, IGNORE_INDEX) for name in names))
