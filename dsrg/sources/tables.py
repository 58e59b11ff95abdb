"""``labels.csv`` and ``labels.json``: which picture holds which classes, in the forms that people have it.

Whatever can be read in two ways is told, not guessed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsrg.sources.base import SPLITS, SourceError
from dsrg.sources.lists import BACKGROUND_NAME, describe_unknown, read_text

ID_COLUMNS = ("id", "image", "image_id", "filename", "file_name", "file", "path", "image_path", "picture")
CLASS_COLUMNS = ("classes", "class", "labels", "label", "tags", "tag", "categories", "category")
SPLIT_WORDS = {"training": "train", "validation": "val", "valid": "val"}
_DELIMITERS = (",", ";", "\t", "|")
_SEPARATORS = ("|", ";", ",")
_NO_YES = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_WANTED = (
    "the first line must be `id,classes` or `id,classes,split`; `image`, `file`, `path` and `labels`, "
    "`tags`, `class` will do, too, or a column of 0 and 1 for every class"
)


@dataclass(frozen=True, slots=True)
class Row:
    """What one line or entry says of one picture.

    Attributes
    ----------
    where : str
        The file and, in a table, the line.
    id : str
        As written; may carry a suffix.
    class_names : tuple of str
        As written, split; empty if nothing is said, ``background`` if it holds none of the classes.
    split : str
        ``train``, ``val``, or empty where it is not given.
    """

    where: str
    id: str
    class_names: tuple[str, ...]
    split: str

    @property
    def place(self) -> str:
        """What an error calls it."""
        return f"{self.where} (`{self.id}`)"


@dataclass(frozen=True)
class Columns:
    """What stands in which column: numbers of columns, None where there is none."""

    id: int
    classes: int | None
    split: int | None
    one_hot: tuple[int, ...] = ()


def read_table(path: Path, *, classes: Sequence[str] | None) -> tuple[list[Row], list[str]]:
    """Read ``labels.csv``.

    Cells are separated by commas, semicolons, tabs or bars: by what makes sense of the header. Classes
    stand in one cell, separated by ``|``, ``;``, ``,`` or spaces, or as one column of 0 and 1 each, where
    a row of zeros says that the picture holds none. Other columns are left alone. Broken rows do not stop
    the reading: each becomes a problem.

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
        The file as a whole makes no sense: not UTF-8, columns missing, named twice or ambiguous.
    """
    text = read_text(path)
    delimiter, header = _choose_delimiter(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    problems: list[str] = []
    lines: list[tuple[int, list[str]]] = []
    try:
        begun = False
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not begun:
                begun = True
                continue
            if len(cells) != len(header):
                problems.append(
                    f"{path.name} line {reader.line_num}: has {len(cells)} cells, the header has "
                    f"{len(header)}: separate classes by | or spaces"
                )
                continue
            lines.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise SourceError(str(path), [f"line {reader.line_num}: {error}"]) from error
    if not lines and not problems:
        raise SourceError(str(path), ["has a header but no rows: add one line for every picture"])
    columns = _find_columns(path, header, lines)
    rows = [_build_row(path, line, cells, header, columns, problems) for line, cells in lines]
    if columns.classes is not None:
        cells_of = [cells[columns.classes] for _, cells in lines]
        rows = split_rows(rows, cells_of, classes, problems)
    check_rows(rows, classes, problems)
    return rows, problems


# -- header ------------------------------------------------------------------------------------


def _choose_delimiter(path: Path, text: str) -> tuple[str, list[str]]:
    """Choose the delimiter that makes sense of the header."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise SourceError(str(path), [f"is empty: {_WANTED}"])
    headers = {delimiter: _split_header(first, delimiter) for delimiter in _DELIMITERS}
    for delimiter, header in headers.items():
        if len(header) > 1 and any(name.lower() in ID_COLUMNS for name in header):
            return delimiter, header
    return ",", headers[","]


def _split_header(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]


def _find_columns(path: Path, names: Sequence[str], lines: Sequence[tuple[int, list[str]]]) -> Columns:
    header = [name.lower() for name in names]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise SourceError(str(path), [f"has the column {', '.join(twice)} twice: keep one"])
    ids = [name for name in header if name in ID_COLUMNS]
    named = [name for name in header if name in CLASS_COLUMNS]
    for found, what in ((ids, "name the picture"), (named, "name its classes")):
        if len(found) > 1:
            raise SourceError(
                str(path),
                [f"has the columns {' and '.join(found)}, each of which may {what}: rename all but one"],
            )
    split = header.index("split") if "split" in header else None
    one_hot = [] if named or not ids else _find_one_hot(path, names, lines)
    missing = [name for name, found in (("id", ids), ("classes", named or one_hot)) if not found]
    if missing:
        raise SourceError(
            str(path), [f"lacks the column {' and '.join(missing)}, has {', '.join(header)}: {_WANTED}"]
        )
    classes = header.index(named[0]) if named else None
    return Columns(header.index(ids[0]), classes, split, tuple(one_hot))


def _find_one_hot(path: Path, header: Sequence[str], lines: Sequence[tuple[int, list[str]]]) -> list[int]:
    """Find the columns of 0 and 1; one that is something else beside them might be a class gone wrong."""
    others = [n for n, name in enumerate(header) if name and name.lower() not in (*ID_COLUMNS, "split")]
    strange = {
        n: (line, cells[n])
        for n in others
        for line, cells in reversed(lines)
        if cells[n] and cells[n].lower() not in _NO_YES
    }
    if len(strange) == len(others):
        return []
    if strange:
        raise SourceError(
            str(path),
            [
                f"line {line}: column `{header[n]}` holds `{value}`, other columns 0 and 1: make it 0 or 1 "
                "if it is a class, or take the column out"
                for n, (line, value) in strange.items()
            ],
        )
    return others


# -- rows --------------------------------------------------------------------------------------


def _build_row(
    path: Path, line: int, cells: Sequence[str], header: Sequence[str], columns: Columns, problems: list[str]
) -> Row:
    where = f"{path.name} line {line}"
    split = "" if columns.split is None else read_split(cells[columns.split])
    row = Row(where, cells[columns.id], (), split)
    if columns.split is not None and split not in SPLITS:
        problems.append(f"{row.place}: split `{split}` must be {' or '.join(SPLITS)}")
    if not columns.one_hot:
        return row
    problems.extend(
        f"{row.place}: column `{header[n]}` is empty: write 0 or 1" for n in columns.one_hot if not cells[n]
    )
    held = [header[n] for n in columns.one_hot if _NO_YES.get(cells[n].lower())]
    return replace(row, class_names=tuple(held) or (BACKGROUND_NAME,))


def read_split(written: str) -> str:
    """Read the word for a split: ``training`` is ``train``, ``valid`` and ``validation`` are ``val``."""
    return SPLIT_WORDS.get(written.lower(), written.lower())


def split_rows(
    rows: Sequence[Row], cells: Sequence[str], classes: Sequence[str] | None, problems: list[str]
) -> list[Row]:
    """Split the cells of class names that belong to `rows`.

    Without ``classes.txt``, a name with a space that one cell sets apart by ``|`` is that class in every
    cell that is nothing else; in a cell with more words it may be one class or several, and is told.
    """
    known = classes
    if classes is None:
        apart = (name for cell in cells if _find_separators(cell) for name in split_class_names(cell))
        known = sorted({name for name in apart if " " in name})
    found = []
    for row, cell in zip(rows, cells, strict=True):
        if len(_find_separators(cell)) > 1 and cell not in (known or ()):
            problems.append(
                f"{row.place}: `{cell}` is separated by {' and '.join(_find_separators(cell))}: "
                "use one of them"
            )
        names = split_class_names(cell, known)
        if classes is None and not _find_separators(cell) and cell not in (known or ()):
            problems.extend(
                f"{row.place}: `{cell}` may be words or hold `{name}`, as other rows have it: separate by |"
                for name in known or ()
                if f" {name} " in f" {' '.join(cell.split())} "
            )
        found.append(replace(row, class_names=names))
    return found


def _find_separators(cell: str) -> list[str]:
    return [separator for separator in _SEPARATORS if separator in cell]


def split_class_names(cell: str, classes: Sequence[str] | None = None) -> tuple[str, ...]:
    """Split a cell of class names: at ``|``, ``;`` or ``,``, the first that it holds, otherwise at spaces.

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
    separators = _find_separators(cell)
    parts = cell.split(separators[0]) if separators else cell.split()
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def check_rows(rows: Sequence[Row], classes: Sequence[str] | None, problems: list[str]) -> None:
    """Tell what is wrong with single rows: no id, ``background`` beside classes, unknown names."""
    for row in rows:
        problems.extend(_check_row(row, classes))


def _check_row(row: Row, classes: Sequence[str] | None) -> Iterator[str]:
    if not row.id:
        yield f"{row.where}: the id is empty"
    if BACKGROUND_NAME in row.class_names and len(row.class_names) > 1:
        yield f"{row.place}: `{BACKGROUND_NAME}` stands beside classes: write it alone or not at all"
    for name in row.class_names:
        if classes is not None and name not in classes and name != BACKGROUND_NAME:
            yield f"{row.place}: {describe_unknown(name, classes)}"
