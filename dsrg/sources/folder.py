"""Source ``folder``: a directory of pictures with image-level labels, and masks for evaluation only.

Three layouts are read:

* ``labels.csv`` or ``labels.json``, and ``images/``, which may have folders of its own.
* ``labels.csv`` or ``labels.json`` with the pictures beside it.
* neither: one folder per class, directly or below both ``train/`` and ``val/``.

``classes.txt``, if there, gives names and ids (line number, from 0; the first line is ``background``).
Without it classes are the sorted names that the table or the class folders use, and the ids in
masks follow that order from 1. ``masks/`` holds one 8-bit PNG per picture, at the same relative path;
so does ``saliency/``, where saliency maps are given (255 = sure to be an object).
The split comes from the column ``split``, from ``train.txt`` and ``val.txt``, or from the folders;
otherwise ingest chooses it. The word ``background`` alone says that a picture holds none of the classes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.image import read_mask
from dsrg.sources.base import (
    SPLITS,
    FileReader,
    Source,
    SourceError,
    digest_records,
    listing,
    make_id,
)
from dsrg.sources.class_folders import list_class_folders
from dsrg.sources.entries import Entry, Found, apply_split_lists, match_rows
from dsrg.sources.files import index_files, index_maps, strip_suffix
from dsrg.sources.label_json import read_json
from dsrg.sources.lists import BACKGROUND_NAME, check_classes, read_classes
from dsrg.sources.records import Record, is_file, list_clashes, pack_records
from dsrg.sources.tables import read_table

TABLES = ("labels.csv", "labels.json")
CLASS_FOLDER = "class folder"
_BESIDE = ("masks", "saliency")
_LAYOUTS = (
    "expected labels.csv (columns id,classes) with the pictures in images/ or beside it, "
    "or one folder of pictures per class"
)


@dataclass(frozen=True)
class FolderReader(FileReader):
    """Reads the files that a record names."""

    def read_gt_label(self, record: Record) -> NDArray[np.uint8] | None:
        """Read one mask: (H, W) uint8, or None where there is none."""
        return read_mask(record.mask) if is_file(record.mask) else None


def open_folder(path: Path) -> Source:
    """List a folder of pictures without decoding any.

    Parameters
    ----------
    path : Path
        The folder; see the module for its layouts.

    Returns
    -------
    Source
        Single bad rows and names stand in ``problems``.

    Raises
    ------
    SourceError
        No such folder, no known layout, or a list that makes no sense as a whole.
    """
    with listing(path, f"the folder of pictures: {_LAYOUTS}"):
        tables = [path / name for name in TABLES if (path / name).is_file()]
        if len(tables) > 1:
            raise SourceError(str(path), [f"has {' and '.join(TABLES)}: keep one"])
        if tables:
            return _open_table(path, tables[0])
        return _build_source(
            path, list_class_folders(path, leave_out=_BESIDE, layouts=_LAYOUTS), home=CLASS_FOLDER
        )


# -- layouts -----------------------------------------------------------------------------------


def _open_table(path: Path, table: Path) -> Source:
    given = read_classes(path / "classes.txt") if (path / "classes.txt").is_file() else None
    read = read_json if table.suffix == ".json" else read_table
    rows, problems = read(table, classes=given)
    pictures = path / "images" if (path / "images").is_dir() else path
    files = index_files(pictures, leave_out=_BESIDE if pictures == path else ())
    entries, remarks = match_rows(rows, files, problems)
    problems.sort(key=_find_line)
    used = {name for row in rows for name in row.class_names}
    named = {entry.name for entry in entries}
    found = Found(
        files=files,
        entries=entries,
        classes=given or tuple(sorted(used - {BACKGROUND_NAME})),
        problems=problems,
        remarks=remarks,
        without_row=[name for name in files.names if name not in named],
    )
    return _build_source(path, found, home=table.name)


def _find_line(problem: str) -> int:
    found = re.match(r"\S+ line (\d+)", problem)
    return int(found[1]) if found else 0


# -- records -----------------------------------------------------------------------------------


def _build_source(path: Path, found: Found, *, home: str) -> Source:
    files, problems, classes = found.files, found.problems, found.classes
    entries, remarks = apply_split_lists(path, found.entries, files, problems)
    if not entries:
        raise SourceError(str(path), problems or ["the lists leave no picture: put ids into them"])
    if problems and not classes:
        raise SourceError(str(path), problems)
    check_classes(str(path), classes)
    names = [name for entry in entries for name in (entry.name, *entry.aliases)]
    find_mask, mask_remarks = index_maps(path / "masks", names)
    find_saliency, saliency_remarks = index_maps(path / "saliency", names)
    position = {name: k for k, name in enumerate(classes)}

    def build_record(entry: Entry) -> Record:
        own = (entry.name, *entry.aliases)
        image_labels = np.zeros(len(classes), bool)
        image_labels[[position[name] for name in entry.class_names if name in position]] = True
        return Record(
            id=make_id(entry.name),
            split=entry.split if entry.split in SPLITS else "",
            image_labels=image_labels,
            name=(files.root / entry.name).relative_to(path).as_posix(),
            picture=files.root / entry.name,
            mask=next(filter(None, map(find_mask, own)), None),
            saliency=next(filter(None, map(find_saliency, own)), None),
            mask_name=f"masks/{strip_suffix(entry.name)}.png",
        )

    records = pack_records(map(build_record, sorted(entries, key=lambda entry: make_id(entry.name))))
    problems += list_clashes(records)
    return Source(
        kind="folder",
        where=str(path),
        classes=classes,
        records=records,
        reader=FolderReader(),
        gt_available=bool(records.have("mask").any()),
        saliency_available=bool(records.have("saliency").any()),
        problems=tuple(problems),
        without_row=tuple(found.without_row),
        without_class=tuple(entry.name for entry in entries if not entry.class_names),
        home=home,
        remarks=(*found.remarks, *remarks, *mask_remarks, *saliency_remarks),
        fingerprint=digest_records(classes, records),
    )
