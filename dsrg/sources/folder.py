"""Source ``folder``: a directory of pictures with image-level labels, and masks for evaluation only.

Three layouts are read:

* ``labels.csv`` and ``images/``. An id may carry its suffix; ``images/`` may have folders of its own.
* ``labels.csv`` with the pictures beside it.
* no ``labels.csv``: one folder per class, directly or below both ``train/`` and ``val/``.

``classes.txt``, if there, gives names and ids (line number, from 0; the first line is ``background``).
Without it classes are the sorted names that ``labels.csv`` or the class folders use, and the ids in
masks follow that order from 1. ``masks/`` holds one 8-bit PNG per picture, at the same relative path;
so does ``saliency/``, where saliency maps are given (255 = sure to be an object).
The split comes from the column ``split``, from ``train.txt`` and ``val.txt``, or from the folders;
otherwise ingest chooses it. The word ``background`` alone says that a picture holds none of the classes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.image import read_image, read_mask
from dsrg.sources.base import SPLITS, Record, Source, SourceError
from dsrg.sources.files import Files, compose, index_files, index_maps, strip_suffix
from dsrg.sources.lists import (
    BACKGROUND_NAME,
    Row,
    check_classes,
    read_classes,
    read_rows,
    read_split_lists,
)

_BESIDE = ("masks", "saliency")
_LAYOUTS = (
    "expected labels.csv (columns id,classes) with the pictures in images/ or beside it, "
    "or one folder of pictures per class"
)


@dataclass(frozen=True)
class FolderReader:
    """Reads the files that a record names."""

    def read_image(self, record: Record) -> NDArray[np.uint8]:
        """Read one picture: (H, W, 3) uint8."""
        return read_image(Path(record.picture))  # type: ignore[arg-type]

    def read_gt_label(self, record: Record) -> NDArray[np.uint8] | None:
        """Read one mask: (H, W) uint8, or None where there is none."""
        return None if record.mask is None else read_mask(record.mask)

    def read_saliency(self, record: Record) -> NDArray[np.uint8] | None:
        """Read one saliency map: (H, W) uint8, or None where there is none."""
        return None if record.saliency is None else read_mask(record.saliency)


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
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "not found"
        raise SourceError(str(path), [f"{what}. Set `source.path` to the folder of pictures: {_LAYOUTS}"])
    try:
        source = _open_table(path) if (path / "labels.csv").is_file() else _open_class_folders(path)
        return replace(source, fingerprint=_fingerprint(source))
    except OSError as error:
        raise SourceError(str(path), [f"cannot be listed ({error.strerror}: {error.filename})"]) from error


# -- layouts -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A picture with its labels, before ids are checked."""

    name: str
    class_names: tuple[str, ...]
    split: str
    place: str


def _open_table(path: Path) -> Source:
    given = read_classes(path / "classes.txt") if (path / "classes.txt").is_file() else None
    rows, problems = read_rows(path / "labels.csv", classes=given)
    pictures = path / "images" if (path / "images").is_dir() else path
    files = index_files(pictures, leave_out=_BESIDE if pictures == path else ())
    entries = _match_rows(rows, files, problems)
    used = {name for row in rows for name in row.class_names if "," not in name}
    classes = given or tuple(sorted(used - {BACKGROUND_NAME}))
    named = {entry.name for entry in entries}
    return _build_source(
        path,
        files,
        entries,
        classes=classes,
        problems=problems,
        without_row=[name for name in files.names if name not in named],
    )


def _match_rows(rows: Sequence[Row], files: Files, problems: list[str]) -> list[_Entry]:
    entries = []
    first: dict[str, Row] = {}
    for row in rows:
        if not row.id:
            continue
        try:
            name = files.find(row.id)
        except LookupError as error:
            problems.append(f"{row.place}: {error.args[0]}")
            continue
        if name in first:
            problems.append(
                f"{row.place}: names `{name}` again, as line {first[name].line} does: keep one row"
            )
            continue
        first[name] = row
        entries.append(_Entry(name, row.class_names, row.split, row.place))
    return entries


def _apply_split_lists(
    path: Path, entries: Sequence[_Entry], files: Files, problems: list[str]
) -> tuple[Sequence[_Entry], list[str]]:
    """Give every entry the split of the list it stands in; those in neither are left out."""
    lists = read_split_lists(path)
    if lists is None:
        return entries, []
    if any(entry.split for entry in entries):
        raise SourceError(
            str(path),
            ["the split is given twice, by train.txt and by labels.csv or folders: remove one"],
        )
    known = {entry.name for entry in entries}
    chosen: dict[str, str] = {}
    for split, ids in lists.items():
        for written in ids:
            place = f"{split}.txt (`{written}`)"
            try:
                name = files.find(written)
            except LookupError as error:
                problems.append(f"{place}: {error.args[0]}")
                continue
            if chosen.setdefault(name, split) != split:
                problems.append(f"{place}: stands in both lists: keep one")
            if name not in known:
                problems.append(f"{place}: has no class: give it one, or remove the line")
    kept = [replace(entry, split=chosen[entry.name]) for entry in entries if entry.name in chosen]
    left_out = [entry.name for entry in entries if entry.name not in chosen]
    return kept, [f"{name}: in neither train.txt nor val.txt, left out" for name in left_out]


def _open_class_folders(path: Path) -> Source:
    top = path / "images" if (path / "images").is_dir() else path
    files = index_files(top, leave_out=_BESIDE if top == path else ())
    folders = sorted(
        f.name for f in top.iterdir() if f.is_dir() and not f.name.startswith(".") and f.name not in _BESIDE
    )
    if not folders or not files.names:
        raise SourceError(str(path), [f"no labels.csv and no class folders with pictures: {_LAYOUTS}"])
    by_split = set(SPLITS) <= set(folders)
    problems = [
        f"{name}: stands beside train/ and val/, but is no split: move it"
        for name in folders
        if by_split and name not in SPLITS
    ]
    entries = []
    loose = []
    for name in files.names:
        parts = name.split("/")
        split, inner = (parts[0], parts[1:]) if by_split else ("", parts)
        if len(inner) < 2:
            loose.append(name)
        elif not by_split or split in SPLITS:
            entries.append(_Entry(name, (inner[0],), split, name))
    found = _list_class_folders(top, folders, by_split)
    filled = {entry.class_names[0] for entry in entries}
    problems += [
        f"{name}: the class folder has no picture: add one, or remove it" for name in sorted(found - filled)
    ]
    classes = tuple(sorted(found - {BACKGROUND_NAME}))
    if (path / "classes.txt").is_file():
        given = read_classes(path / "classes.txt")
        problems += [
            f"{name}: the class folder is not in classes.txt: add it there"
            for name in classes
            if name not in given
        ]
        classes = given
    return _build_source(path, files, entries, classes=classes, problems=problems, without_row=loose)


def _list_class_folders(top: Path, folders: Sequence[str], by_split: bool) -> set[str]:
    if not by_split:
        return set(folders)
    inner = (f for split in SPLITS for f in (top / split).iterdir())
    return {f.name for f in inner if f.is_dir() and not f.name.startswith(".")}


# -- records -----------------------------------------------------------------------------------


def _build_source(
    path: Path,
    files: Files,
    entries: Sequence[_Entry],
    *,
    classes: tuple[str, ...],
    problems: list[str],
    without_row: Sequence[str],
) -> Source:
    entries, remarks = _apply_split_lists(path, entries, files, problems)
    if not entries:
        raise SourceError(str(path), problems or ["the lists leave no picture: put ids into them"])
    if problems and not classes:
        raise SourceError(str(path), problems)
    check_classes(str(path), classes)
    names = [entry.name for entry in entries]
    find_mask, mask_remarks = index_maps(path / "masks", names)
    find_saliency, saliency_remarks = index_maps(path / "saliency", names)
    position = {name: k for k, name in enumerate(classes)}
    records = []
    for entry in entries:
        image_labels = np.zeros(len(classes), bool)
        image_labels[[position[name] for name in entry.class_names if name in position]] = True
        records.append(
            Record(
                id=compose(strip_suffix(entry.name)).replace("/", "__"),
                split=entry.split if entry.split in SPLITS else "",
                image_labels=image_labels,
                name=(files.root / entry.name).relative_to(path).as_posix(),
                picture=files.root / entry.name,
                mask=find_mask(entry.name),
                saliency=find_saliency(entry.name),
            )
        )
    records.sort(key=lambda record: record.id)
    problems += _find_clashes(records)
    return Source(
        kind="folder",
        where=str(path),
        classes=classes,
        records=tuple(records),
        reader=FolderReader(),
        gt_available=any(record.mask is not None for record in records),
        saliency_available=any(record.saliency is not None for record in records),
        problems=tuple(problems),
        without_row=tuple(without_row),
        without_class=tuple(entry.name for entry in entries if not entry.class_names),
        remarks=(*remarks, *mask_remarks, *saliency_remarks),
    )


def _find_clashes(records: Sequence[Record]) -> list[str]:
    by_id: dict[str, list[str]] = defaultdict(list)
    for record in records:
        by_id[record.id].append(record.name)
    return [
        f"{' and '.join(names)}: both become the id `{key}`: rename one"
        for key, names in by_id.items()
        if len(names) > 1
    ]


def _fingerprint(source: Source) -> str:
    """Digest names, labels, splits, and size and time of every file, so that no stale shard is reused."""
    digest = hashlib.sha256(repr(source.classes).encode())
    for record in source.records:
        stats = [f.stat() for f in (record.picture, record.mask, record.saliency) if isinstance(f, Path)]
        marks = [(s.st_size, s.st_mtime_ns) for s in stats]
        digest.update(repr((record.id, record.split, record.image_labels.tolist(), marks)).encode())
    return digest.hexdigest()
