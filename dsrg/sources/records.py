"""The pictures of a source: one by one as records, and all of them packed, in a quarter of the memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard, overload

import numpy as np
from numpy.typing import NDArray

from dsrg.places import is_remote
from dsrg.sources.regions import Drawing
from dsrg.store import widen_texts

_AT_ONCE = 4096  # so many lie unpacked at a time
_TEXT: Any = np.dtypes.StringDType()  # 16 bytes each, longer ones theirs besides; a str is 50 and its length
_NOWHERE = -1


@dataclass(frozen=True, eq=False, slots=True)
class Record:
    """One picture, undecoded.

    Attributes
    ----------
    id : str
        Unique name without suffix or slash.
    split : str
        ``train`` or ``val``; empty where ingest is to choose.
    image_labels : (K,) bool
        Which foreground classes the picture holds.
    name : str
        What an error calls it: the file's name relative to the source.
    picture : Path or int
        The file, or the number that a generator makes it from.
    mask : Path, Drawing, or None
        The file of its mask, or what it is to be drawn from, for the truth only.
    saliency : Path or None
        The file of its saliency map.
    mask_name : str
        What an error calls the mask.
    """

    id: str
    split: str
    image_labels: NDArray[np.bool_]
    name: str
    picture: Path | int
    mask: Path | Drawing | None = None
    saliency: Path | None = None
    mask_name: str = ""


def is_file(place: Path | Drawing | int | None) -> TypeGuard[Path]:
    """Tell whether what a record names is a file, here or under a URL."""
    return isinstance(place, Path) or is_remote(place)


class Records(Sequence[Record]):
    """Records of many pictures, made anew whenever they are asked for; see :func:`pack_records`.

    A slice shares the memory of the whole, and is pickled as what is in it alone.

    Attributes
    ----------
    image_labels : (N, K) bool
        Not to be modified.
    """

    def __init__(
        self,
        texts: dict[str, NDArray[Any]],
        image_labels: NDArray[np.bool_],
        places: dict[str, _Places],
    ) -> None:
        self.image_labels = image_labels
        self._texts, self._places = texts, places

    @property
    def ids(self) -> NDArray[np.str_]:
        """Ids of all: (N,) str."""
        return widen_texts(self._texts["id"])

    @property
    def splits(self) -> NDArray[np.str_]:
        """Splits of all, empty where there is none: (N,) str."""
        return widen_texts(self._texts["split"])

    def have(self, what: str) -> NDArray[np.bool_]:
        """Tell which pictures have a ``mask``, or a ``saliency`` map: (N,) bool."""
        return np.not_equal(self._places[what].codes, _NOWHERE)

    def take(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> Records:
        """Take some, in the order of `rows`."""
        return self._pick(np.asarray(rows, np.int64))

    def with_splits(self, splits: NDArray[np.str_]) -> Records:
        """Give all of them another split."""
        texts = {**self._texts, "split": np.asarray(splits).astype(_TEXT)}
        return Records(texts, self.image_labels, self._places)

    def __len__(self) -> int:
        return len(self.image_labels)

    @overload
    def __getitem__(self, row: int) -> Record: ...
    @overload
    def __getitem__(self, row: slice) -> Records: ...
    def __getitem__(self, row: int | slice) -> Record | Records:
        if isinstance(row, slice):
            return self._pick(row)
        fields: dict[str, Any] = {name: str(column[row]) for name, column in self._texts.items()}
        fields |= {name: column[row] for name, column in self._places.items()}
        return Record(image_labels=self.image_labels[row], **fields)

    def _pick(self, rows: slice | NDArray[np.int64]) -> Records:
        texts = {name: column[rows] for name, column in self._texts.items()}
        places = {name: column.pick(rows) for name, column in self._places.items()}
        return Records(texts, self.image_labels[rows], places)

    def __reduce__(self) -> tuple[Any, ...]:
        return pack_records, (list(self),)


def pack_records(records: Iterable[Record]) -> Records:
    """Pack records, which may be made one by one.

    Raises
    ------
    UnicodeEncodeError
        A text is no UTF-8.
    """
    texts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("id", "split", "name", "mask_name")}
    packers = {name: _Packer() for name in ("picture", "mask", "saliency")}
    labels = [np.zeros((0, 0), bool)]
    waiting = iter(records)
    while block := list(islice(waiting, _AT_ONCE)):
        for name, columns in texts.items():
            columns.append(np.array([getattr(record, name) for record in block], dtype=_TEXT))
        for name, packer in packers.items():
            packer.add([getattr(record, name) for record in block])
        labels.append(np.stack([record.image_labels for record in block]).astype(bool))
    image_labels = np.concatenate(labels[1:] or labels)
    image_labels.flags.writeable = False
    joined = {name: _join([np.array([], _TEXT), *columns]) for name, columns in texts.items()}
    return Records(joined, image_labels, {name: packer.join() for name, packer in packers.items()})


def list_clashes(records: Records) -> Iterator[str]:
    """List ids that more than one record has, one problem for each; records are sorted by id."""
    ids = records.ids
    equal = np.flatnonzero(ids[1:] == ids[:-1])
    for key in dict.fromkeys(ids[equal].tolist()):
        names = [records[int(row)].name for row in np.flatnonzero(ids == key)]
        yield f"{' and '.join(names)}: both become the id `{key}`: rename one"


# -- columns -----------------------------------------------------------------------------------


def _join(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Join the parts of a column; one that says the same of all pictures takes no memory."""
    column = np.concatenate(parts)
    alike = len(column) > 0 and bool((column == column[0]).all())
    return np.broadcast_to(column[:1].copy(), column.shape) if alike else column


@dataclass(frozen=True, eq=False, slots=True)
class _Places:
    """Where pictures or maps of many records lie: a head for each, and the name of a file in it.

    Attributes
    ----------
    heads : list
        Folders, each once; and whatever is no file.
    codes : (N,) int32
        Which of them; -1 where there is nothing.
    tails : (N,) str
        Names in folders; empty where the head is all.
    """

    heads: list[Any]
    codes: NDArray[np.int32]
    tails: NDArray[Any]

    def __getitem__(self, row: int) -> Any:
        code = self.codes[row]
        if code == _NOWHERE:
            return None
        head, tail = self.heads[code], str(self.tails[row])
        return head / tail if tail else head

    def pick(self, rows: slice | NDArray[np.int64]) -> _Places:
        return _Places(self.heads, self.codes[rows], self.tails[rows])


class _Packer:
    """Packs places, block by block."""

    def __init__(self) -> None:
        self._heads: list[Any] = []
        self._folders: dict[Path, int] = {}
        self._codes = [np.zeros(0, np.int32)]
        self._tails = [np.array([], _TEXT)]

    def add(self, places: Sequence[Any]) -> None:
        pairs = [self._split(place) for place in places]
        self._codes.append(np.array([code for code, _ in pairs], np.int32))
        self._tails.append(np.array([tail for _, tail in pairs], dtype=_TEXT))

    def _split(self, place: Any) -> tuple[int, str]:
        if place is None:
            return _NOWHERE, ""
        if not is_file(place):
            self._heads.append(place)
            return len(self._heads) - 1, ""
        folder = place.parent
        if folder not in self._folders:
            self._folders[folder] = len(self._heads)
            self._heads.append(folder)
        return self._folders[folder], place.name

    def join(self) -> _Places:
        return _Places(self._heads, _join(self._codes), _join(self._tails))
