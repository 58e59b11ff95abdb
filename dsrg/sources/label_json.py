"""``labels.json``: the classes of every picture, as an object or as a list of entries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsrg.sources.base import SPLITS, SourceError
from dsrg.sources.lists import BACKGROUND_NAME, parse_json
from dsrg.sources.tables import CLASS_COLUMNS, ID_COLUMNS, Row, check_rows, read_split, split_rows

_FORMS = 'expected {"a.jpg": ["cat", "dog"], ...} or [{"image": "a.jpg", "labels": ["cat", "dog"]}, ...]'


def read_json(path: Path, *, classes: Sequence[str] | None) -> tuple[list[Row], list[str]]:
    """Read ``labels.json``: ``{"a.jpg": ["cat", "dog"]}`` or ``[{"image": "a.jpg", "labels": [...]}]``.

    An entry may name its split. Classes are a list of names, one cell as in ``labels.csv``, or an object
    of 0 and 1. Keys are called as columns of ``labels.csv`` are. An empty list says nothing;
    ``["background"]``, or an object of zeros, says that the picture holds none of the classes.

    Parameters
    ----------
    path : Path
    classes : sequence of str or None
        Names of ``classes.txt``, if there is one.

    Returns
    -------
    rows : list of Row
    problems : list of str

    Raises
    ------
    SourceError
        The file as a whole makes no sense: not UTF-8, no JSON, another form.
    """
    problems: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            problems.append(f"{path.name}: `{'`, `'.join(twice)}` stand there twice: keep one")
        return built

    content = parse_json(path, object_pairs_hook=build)
    if isinstance(content, dict) and {"images", "annotations"} <= set(content):
        raise SourceError(
            str(path), ["is an instances JSON of COCO: set source.kind=coco, and call it otherwise"]
        )
    if not isinstance(content, dict | list) or not content:
        raise SourceError(str(path), [f"holds no pictures: {_FORMS}"])
    entries = list(content.items()) if isinstance(content, dict) else list(enumerate(content))
    rows: list[Row] = []
    cells: dict[int, str] = {}
    for key, value in entries:
        name, found, split = _read_entry(path, key, value, problems)
        row = Row(path.name, name, (), split)
        if split and split not in SPLITS:
            problems.append(f"{row.place}: split `{split}` must be {' or '.join(SPLITS)}")
        if isinstance(found, str):
            cells[len(rows)] = found
            rows.append(row)
        else:
            rows.append(Row(path.name, name, _read_names(row, found, problems), split))
    if cells:
        numbers = list(cells)
        split_up = split_rows([rows[n] for n in numbers], list(cells.values()), classes, problems)
        for number, row in zip(numbers, split_up, strict=True):
            rows[number] = row
    check_rows(rows, classes, problems)
    return rows, problems


def _read_entry(path: Path, key: str | int, value: Any, problems: list[str]) -> tuple[str, Any, str]:
    """Read what an entry says: the picture, its classes as they stand there, and the split."""
    name = key if isinstance(key, str) else ""
    if not isinstance(value, dict):
        if isinstance(key, int):
            raise SourceError(str(path), [f"entry {key} is no object: {_FORMS}"])
        return name, value, ""
    lowered = {str(k).strip().lower(): v for k, v in value.items()}
    ids = [k for k in lowered if k in ID_COLUMNS]
    named = [k for k in lowered if k in CLASS_COLUMNS]
    place = f"{path.name} (`{key}`)" if name else f"{path.name} entry {key}"
    if len(named) > 1 or (not name and len(ids) != 1):
        what = "classes or labels" if len(named) > 1 else "image, file or id"
        problems.append(f"{place}: must have one key for {what}, has {', '.join(lowered)}")
    if not name:
        name = str(lowered[ids[0]]) if ids else f"entry {key}"
    split = read_split(str(lowered.get("split", "")))
    if named:
        return name, lowered[named[0]], split
    flags = {k: v for k, v in value.items() if k.lower() not in (*ID_COLUMNS, "split")}
    if not flags or any(v not in (0, 1) or isinstance(v, str) for v in flags.values()):
        problems.append(f"{place}: names no classes: {_FORMS}")
        return name, [], split
    return name, [k for k, v in flags.items() if v] or [BACKGROUND_NAME], split


def _read_names(row: Row, found: Any, problems: list[str]) -> tuple[str, ...]:
    if found is None:
        return ()
    if not isinstance(found, list):
        problems.append(f"{row.place}: classes must be a list of names, got {found!r}")
        return ()
    strange = [name for name in found if not isinstance(name, str) or not name.strip()]
    problems.extend(f"{row.place}: class {name!r} must be a name in quotes" for name in strange)
    return tuple(dict.fromkeys(name.strip() for name in found if name not in strange))
