"""Pictures with what lists or class folders say of them, before ids are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsrg.sources.base import SourceError, count_things
from dsrg.sources.files import Files
from dsrg.sources.lists import BACKGROUND_NAME, read_split_lists
from dsrg.sources.tables import Row


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture with its labels; `split` is empty where it is not given, `aliases` are copies of it."""

    name: str
    class_names: tuple[str, ...]
    split: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What a layout was read into; `without_row` are pictures that it does not speak of."""

    files: Files
    entries: Sequence[Entry]
    classes: tuple[str, ...]
    problems: list[str]
    remarks: Sequence[str]
    without_row: Sequence[str]


def match_rows(rows: Sequence[Row], files: Files, problems: list[str]) -> tuple[list[Entry], list[str]]:
    """Match the rows of a table with the pictures that they mean.

    Several rows may name one picture where every row of the table names one class at most: they are its
    classes together. Otherwise a second row contradicts the first, or repeats it, and is told.

    Returns
    -------
    entries : list of Entry
    remarks : list of str
    """
    one_each = all(len(row.class_names) <= 1 for row in rows)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if not row.id:
            continue
        try:
            groups.setdefault(files.find(row.id), []).append(row)
        except LookupError as error:
            problems.append(f"{row.place}: {error.args[0]}")
    entries = []
    joined = 0
    for name, group in groups.items():
        first, *others = group
        problems.extend(_contradict(name, first, row) for row in others if not _fit(first, row, one_each))
        names = dict.fromkeys(class_name for row in group for class_name in row.class_names)
        joined += len(group) > 1
        entries.append(Entry(name, tuple(names), first.split))
    remark = f"{count_things(joined, 'picture')} in several rows: of the classes of all of them"
    return entries, [remark] if joined else []


def _fit(first: Row, row: Row, one_each: bool) -> bool:
    alone = (BACKGROUND_NAME,)
    mixed = (first.class_names == alone) != (row.class_names == alone)
    return one_each and first.split == row.split and not mixed


def _contradict(name: str, first: Row, row: Row) -> str:
    before = first.where.partition(" ")[2] or "another entry"
    return f"{row.place}: names `{name}` again, as {before} does: keep one row"


def apply_split_lists(
    path: Path, entries: Sequence[Entry], files: Files, problems: list[str]
) -> tuple[Sequence[Entry], list[str]]:
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
