"""The text files of a folder of pictures: ``labels.csv``, ``classes.txt``, ``train.txt``, ``val.txt``."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsrg.labels import check_class_names
from dsrg.sources.base import SPLITS, SourceError

BACKGROUND_NAME = "background"
_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class Row:
    """One line of ``labels.csv``.

    Attributes
    ----------
    line : int
        Its number in the file, from 1.
    id : str
        As written; may carry a suffix.
    class_names : tuple of str
        As written, split; empty if the picture holds none of the classes.
    split : str
        ``train``, ``val``, or empty without a split column.
    """

    line: int
    id: str
    class_names: tuple[str, ...]
    split: str

    @property
    def place(self) -> str:
        """What an error calls it."""
        return f"labels.csv line {self.line} (`{self.id}`)"


def read_text(path: Path) -> str:
    """Read a text file as UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(
            str(path), [f"is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"]
        ) from error
    except OSError as error:
        raise SourceError(str(path), [f"cannot be read ({error.strerror})"]) from error


def read_classes(path: Path) -> tuple[str, ...]:
    """Read the foreground classes of ``classes.txt``; a name's line number, from 0, is its id in masks.

    The first line, id 0, must be ``background``: without it every id would be off by one unnoticed.

    Returns
    -------
    tuple of K str

    Raises
    ------
    SourceError
        Another first line, an empty line, a name twice, no class, or more than 254.
    """
    names = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if not names or names[0].lower() != BACKGROUND_NAME:
        first = names[0] if names else ""
        raise SourceError(
            str(path), [f"line 1 (id 0) must be `{BACKGROUND_NAME}`, got `{first}`: put it above the classes"]
        )
    classes = tuple(names[1:])
    check_classes(str(path), classes)
    return classes


def check_classes(where: str, classes: Sequence[str]) -> None:
    """Refuse class lists that no label map can hold, as a SourceError that names the file."""
    try:
        check_class_names(classes)
    except ValueError as error:
        raise SourceError(where, [str(error)]) from error


def read_rows(path: Path, *, classes: Sequence[str] | None) -> tuple[list[Row], list[str]]:
    """Read ``labels.csv``: comma-separated, header with ``id``, ``classes`` and, if wanted, ``split``.

    Other columns are left alone. Broken rows do not stop the reading: each becomes a problem.

    Parameters
    ----------
    path : Path
    classes : sequence of str or None
        Names of ``classes.txt``, if there is one: a cell that is such a name as a whole is that class,
        spaces and all.

    Returns
    -------
    rows : list of Row
    problems : list of str

    Raises
    ------
    SourceError
        The file as a whole makes no sense: not UTF-8, wrong delimiter, columns missing or named twice.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows: list[Row] = []
    problems: list[str] = []
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_header(path, header)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                problems.append(
                    f"labels.csv line {reader.line_num}: has {len(cells)} cells, the header has "
                    f"{len(header)}: separate classes by | or spaces"
                )
                continue
            named = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            rows.append(_build_row(reader.line_num, named, classes, problems))
    except csv.Error as error:
        raise SourceError(str(path), [f"line {reader.line_num}: {error}"]) from error
    if not rows and not problems:
        raise SourceError(str(path), ["has a header but no rows: add one line for every picture"])
    return rows, problems


def _check_header(path: Path, header: list[str]) -> None:
    wanted = "the first line must be `id,classes` or `id,classes,split`"
    if not any(header):
        raise SourceError(str(path), [f"is empty: {wanted}"])
    for delimiter, name in _OTHER_DELIMITERS.items():
        if len(header) == 1 and delimiter in header[0]:
            raise SourceError(str(path), [f"is separated by {name}, not by commas: {wanted}"])
    missing = [name for name in ("id", "classes") if name not in header]
    if missing:
        raise SourceError(
            str(path), [f"lacks the column {' and '.join(missing)}, has {', '.join(header)}: {wanted}"]
        )
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise SourceError(str(path), [f"has the column {', '.join(twice)} twice: keep one"])


def _build_row(line: int, named: dict[str, str], classes: Sequence[str] | None, problems: list[str]) -> Row:
    row = Row(line, named["id"], split_class_names(named["classes"], classes), named.get("split", ""))
    if not row.id:
        problems.append(f"labels.csv line {line}: the id is empty")
    if BACKGROUND_NAME in row.class_names and len(row.class_names) > 1:
        problems.append(
            f"{row.place}: `{BACKGROUND_NAME}` stands beside classes: write it alone or not at all"
        )
    if classes is None:
        problems.extend(
            f"{row.place}: class `{name}` holds a comma: separate classes by | or spaces"
            for name in row.class_names
            if "," in name
        )
    else:
        problems.extend(
            f"{row.place}: {_describe_unknown(name, classes)}"
            for name in row.class_names
            if name not in classes and name != BACKGROUND_NAME
        )
    if "split" in named and row.split not in SPLITS:
        problems.append(f"{row.place}: split `{row.split}` must be {' or '.join(SPLITS)}")
    return row


def _describe_unknown(name: str, classes: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, classes, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "correct it, or add it to classes.txt"
    return f"class `{name}` is not in classes.txt: {hint}"


def split_class_names(cell: str, classes: Sequence[str] | None = None) -> tuple[str, ...]:
    """Split a cell of class names: at ``|`` if it holds one, otherwise at spaces.

    A cell that is, as a whole, one of `classes` is that class. A name given twice counts once.

    Examples
    --------
    >>> split_class_names("cat dog"), split_class_names("red fox|dog")
    (('cat', 'dog'), ('red fox', 'dog'))
    >>> split_class_names("red fox", ["red fox"])
    ('red fox',)
    """
    if classes is not None and cell in classes:
        return (cell,)
    parts = cell.split("|") if "|" in cell else cell.split()
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def read_split_lists(root: Path) -> dict[str, list[str]] | None:
    """Read ``train.txt`` and ``val.txt``, one id a line; None if there is neither.

    Returns
    -------
    dict of split to ids, or None
        Ids as written; may carry a suffix.
    """
    paths = {split: root / f"{split}.txt" for split in SPLITS}
    found = [split for split, path in paths.items() if path.is_file()]
    if not found:
        return None
    if len(found) == 1:
        missing = next(split for split in SPLITS if split not in found)
        raise SourceError(str(root), [f"has {found[0]}.txt but no {missing}.txt: give both, or neither"])
    return {
        split: [line.strip() for line in read_text(path).splitlines() if line.strip()]
        for split, path in paths.items()
    }
