"""The files below a folder: pictures found by name or stem, and the maps that belong to them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dsrg.image import PICTURE_SUFFIXES
from dsrg.places import is_remote, list_below


@dataclass(frozen=True)
class Files:
    """The pictures below a folder, found by name or by name without suffix.

    Attributes
    ----------
    root : Path
    names : tuple of str
        Relative paths of pictures with ``/``, sorted.
    by_name, by_stem : dict
        The same under Unicode's composed form, in which lists are compared with file names.
    others : dict
        Files with another suffix, by stem.
    """

    root: Path
    names: tuple[str, ...]
    by_name: dict[str, str]
    by_stem: dict[str, tuple[str, ...]]
    others: dict[str, str]

    def find(self, written: str) -> str:
        """Find the picture that an id means; LookupError says why there is none."""
        key = compose(written.replace("\\", "/"))
        pure = PurePosixPath(key)
        if not pure.name:
            raise LookupError("names no file: write a picture's name")
        if pure.is_absolute() or ".." in pure.parts or ":" in key[:2]:
            raise LookupError("leads out of the folder: write the path below it")
        key = str(pure)
        if pure.parts[0] == self.root.name and key not in self.by_name and key not in self.by_stem:
            key = str(PurePosixPath(*pure.parts[1:]))  # written from the folder above
        if key in self.by_name:
            return self.by_name[key]
        found = self.by_stem.get(key, ())
        if len(found) > 1:
            raise LookupError(f"could be {' or '.join(found)}: write it with its suffix")
        if not found:
            other = self.others.get(key) or self.others.get(str(pure.with_suffix("")))
            if other:
                raise LookupError(f"`{other}` is of no known format ({' '.join(PICTURE_SUFFIXES)})")
            raise LookupError(f"no such picture in `{self.root.name}`: add it, or remove the line")
        return found[0]


def compose(name: str) -> str:
    """Bring a name to Unicode's composed form: macOS stores another than people type."""
    return unicodedata.normalize("NFC", name)


def strip_suffix(name: str) -> str:
    """Strip the last suffix of a relative path."""
    return str(PurePosixPath(name).with_suffix(""))


def index_files(root: Path, *, leave_out: Sequence[str] = ()) -> Files:
    """Index the pictures below a folder; folders `leave_out` at its top are passed over."""
    names: list[str] = []
    others: dict[str, str] = {}
    for name in walk(root, leave_out=leave_out):
        if name.lower().endswith(PICTURE_SUFFIXES):
            names.append(name)
        else:
            others[compose(strip_suffix(name))] = name
    names.sort()
    by_stem: dict[str, tuple[str, ...]] = {}
    for name in names:
        stem = compose(strip_suffix(name))
        by_stem[stem] = (*by_stem.get(stem, ()), name)
    return Files(root, tuple(names), {compose(name): name for name in names}, by_stem, others)


def describe_strange_name(error: UnicodeEncodeError) -> str:
    """Describe the file whose name :func:`walk` refused."""
    return f"{os.fsencode(error.object)!r}: this name is no UTF-8: rename the file"


def walk(root: Path, *, leave_out: Sequence[str] = ()) -> Iterable[str]:
    """Walk over files, hidden ones and folders `leave_out` at the top excepted; relative, with ``/``.

    Linked folders are followed, each but once. The root may be a URL.

    Raises
    ------
    UnicodeEncodeError
        A name is no UTF-8, as in archives of old systems: neither lists nor stores could name the file.
    """
    if is_remote(root):
        for name in list_below(root):
            parts = name.split("/")
            if parts[0] not in leave_out and not any(part.startswith(".") for part in parts):
                yield name
        return
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        top = Path(folder) == root
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [f for f in folders if not f.startswith(".") and not (top and f in leave_out)]
        for file in files:
            if not file.startswith("."):
                name = Path(folder, file).relative_to(root).as_posix()
                name.encode()
                yield name


def index_maps(root: Path, names: Sequence[str]) -> tuple[Callable[[str], Path | None], list[str]]:
    """Index ``masks/`` or ``saliency/``; a map has its picture's path with the suffix png."""
    if not root.is_dir():
        return (lambda _: None), []
    found = {compose(strip_suffix(m)): m for m in sorted(walk(root)) if m.lower().endswith(".png")}
    wanted = {compose(strip_suffix(name)) for name in names}
    remarks = [
        f"{root.name}/{mask}: belongs to no picture" for stem, mask in found.items() if stem not in wanted
    ]
    strangers = sorted(m for m in walk(root) if not m.lower().endswith(".png"))
    remarks += [f"{root.name}/{name}: is no PNG, left out" for name in strangers]

    def find(name: str) -> Path | None:
        mask = found.get(compose(strip_suffix(name)))
        return None if mask is None else root / mask

    return find, remarks
