"""One folder of pictures per class: the layout of most photo collections, and of ImageNet."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dsrg.sources.base import SPLITS, SourceError, count_things
from dsrg.sources.entries import Entry, Found
from dsrg.sources.files import Files, index_files
from dsrg.sources.lists import BACKGROUND_NAME, read_classes


def list_class_folders(path: Path, *, leave_out: Sequence[str], layouts: str) -> Found:
    """List pictures by the folder of their class, directly or below both ``train/`` and ``val/``.

    The same file, byte for byte, in several class folders of one split is one picture of all these
    classes. Pictures that only share a name, as ``dog/1.jpg`` and ``cat/1.jpg``, are different ones.

    Parameters
    ----------
    path : Path
        The folder; the class folders lie in its ``images/`` if there is one.
    leave_out : sequence of str
        Folders beside the class folders that are none.
    layouts : str
        What is expected, for the error.

    Raises
    ------
    SourceError
        No folder with a picture.
    """
    top = path / "images" if (path / "images").is_dir() else path
    files = index_files(top, leave_out=leave_out if top == path else ())
    folders = sorted(
        f.name for f in top.iterdir() if f.is_dir() and not f.name.startswith(".") and f.name not in leave_out
    )
    if not folders or not files.names:
        tables = sorted(f.name for f in path.iterdir() if f.suffix.lower() in (".csv", ".json", ".tsv"))
        hint = f" (is {tables[0]} the table? Call it labels{Path(tables[0]).suffix})" if tables else ""
        raise SourceError(str(path), [f"no labels.csv and no class folders with pictures{hint}: {layouts}"])
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
            entries.append(Entry(name, (inner[0],), split))
    found = _list_names(top, folders, by_split)
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
    entries, remarks = _join_copies(files, entries, problems)
    return Found(files, entries, classes, problems, remarks, loose)


def _list_names(top: Path, folders: Sequence[str], by_split: bool) -> set[str]:
    if not by_split:
        return set(folders)
    inner = (f for split in SPLITS for f in (top / split).iterdir())
    return {f.name for f in inner if f.is_dir() and not f.name.startswith(".")}


def _join_copies(
    files: Files, entries: Sequence[Entry], problems: list[str]
) -> tuple[list[Entry], list[str]]:
    """Join copies of one file in several class folders; copies within one folder stay apart."""
    joined = []
    several = 0
    for copies in _group_copies(files, entries):
        names = sorted({copy.class_names[0] for copy in copies})
        if len(names) == 1:
            joined += copies
            continue
        first, *others = copies
        if BACKGROUND_NAME in names:
            problems.append(
                f"{first.name}: lies in `{BACKGROUND_NAME}`, too, as {others[0].name}: take one away"
            )
        several += 1
        aliases = tuple(copy.name for copy in others)
        joined.append(Entry(first.name, tuple(names), first.split, aliases))
    joined.sort(key=lambda entry: entry.name)
    remark = f"{count_things(several, 'picture')} in several class folders: of the classes of all of them"
    return joined, [remark] if several else []


def _group_copies(files: Files, entries: Sequence[Entry]) -> list[list[Entry]]:
    """Group entries of one split whose files are equal; only files of one size are read."""
    by_size: dict[tuple[str, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_size[entry.split, (files.root / entry.name).stat().st_size].append(entry)
    groups: list[list[Entry]] = []
    for (_, size), alike in by_size.items():
        if len({entry.class_names for entry in alike}) == 1 or not size:
            groups += [[entry] for entry in alike]
            continue
        by_content: dict[str, list[Entry]] = defaultdict(list)
        for entry in alike:
            by_content[_hash_file(files.root / entry.name)].append(entry)
        groups += by_content.values()
    return groups


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
