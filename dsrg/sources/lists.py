"""The lists beside pictures: ``classes.txt``, ``train.txt``, ``val.txt``, and files of JSON."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsrg.labels import check_class_names
from dsrg.sources.base import SPLITS, SourceError

BACKGROUND_NAME = "background"
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a surrogate pair, mostly beside the other half


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


def parse_json(path: Path, **hooks: Any) -> Any:
    """Read a file of JSON; `hooks` are those of :func:`json.loads`.

    Raises
    ------
    SourceError
        Unreadable, not UTF-8, no JSON, or of a depth or with numbers that nothing here has a use for.
    """
    text = read_text(path)
    try:
        content = json.loads(text, **hooks)
        if _HALF.search(text):
            json.dumps(json.loads(text), ensure_ascii=False).encode()
    except RecursionError:
        raise SourceError(str(path), ["is nested too deeply to be read"]) from None
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise SourceError(str(path), [f"holds half of a character ({half}): export it again"]) from error
    except ValueError as error:  # JSONDecodeError, and whole numbers of thousands of digits
        reason = str(error).partition(";")[0]
        raise SourceError(str(path), [f"is no valid JSON ({reason}): export it again"]) from error
    return content


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


def describe_unknown(name: str, classes: Sequence[str]) -> str:
    """Describe a class name that is not in ``classes.txt``, with the one that was meant, perhaps."""
    near = difflib.get_close_matches(name, classes, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "correct it, or add it to classes.txt"
    return f"class `{name}` is not in classes.txt: {hint}"


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
