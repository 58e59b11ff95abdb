"""What a source of pictures hands to ingest: classes, records, and a reader of single pictures.

A source lists everything without decoding a picture. Masks stand in a record only for the reader of
the truth: no class, image label, split or picture is ever taken from one, unless the user asks by name
for image labels out of masks (``source.image_labels: masks``, source ``voc``).
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dsrg.image import fit_size, read_image, read_mask, read_scaled_image, scale_image
from dsrg.places import fetch, is_remote, list_below, reaching
from dsrg.sources.files import compose, describe_strange_name, strip_suffix
from dsrg.sources.records import Record, Records, is_file

SPLITS = ("train", "val")
MAX_LINES = 50
_FETCHED = 16  # files at a time: so many lie in memory


class SourceError(Exception):
    """The pictures or their lists cannot be used; the message names every bad file and the way out.

    Parameters
    ----------
    where : str
        The folder or list that is wrong.
    problems : sequence of str
        One line each, beginning with the file. The message shows the first 50.
    """

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(list_problems(where, self.problems))


def list_problems(where: str, problems: Sequence[str]) -> str:
    """List problems below a headline, one a line, at most 50.

    Examples
    --------
    >>> print(list_problems("birds", ["a.jpg: is empty (0 bytes)"]))
    `birds`: a.jpg: is empty (0 bytes)
    """
    if len(problems) == 1:
        return f"`{where}`: {problems[0]}"
    lines = [f"`{where}` has {len(problems)} problems:"]
    lines += [f"  {problem}" for problem in problems[:MAX_LINES]]
    if len(problems) > MAX_LINES:
        lines.append(f"  ... and {len(problems) - MAX_LINES} more")
    return "\n".join(lines)


@contextlib.contextmanager
def fetch_files(records: Sequence[Record], what: str) -> Iterator[tuple[Record, ...]]:
    """Fetch the files of records that lie under a URL, many at a time, for as long as the block lasts.

    Parameters
    ----------
    records : sequence of Record
    what : str
        Which of their files: ``picture``, ``mask`` or ``saliency``.

    Yields
    ------
    tuple of Record
        The same, but that they name copies on this machine. Of a file that is gone there is none.

    Raises
    ------
    PlaceError
        The URL cannot be reached.
    """
    away = [number for number, record in enumerate(records) if is_remote(getattr(record, what))]
    if not away:
        yield tuple(records)
        return
    with tempfile.TemporaryDirectory(prefix="dsrg-") as folder:
        near = list(records)
        for start in range(0, len(away), _FETCHED):
            numbers = away[start : start + _FETCHED]
            contents = fetch([getattr(records[number], what) for number in numbers])
            for number, content in zip(numbers, contents, strict=True):
                copy = Path(folder) / f"{number}-{getattr(records[number], what).name}"
                near[number] = replace(records[number], **{what: copy})  # type: ignore[arg-type]
                if content is not None:
                    copy.write_bytes(content)
        yield tuple(near)


class Reader(Protocol):
    """Reads single pictures; small, because every worker process gets a copy."""

    def read_image(self, record: Record) -> NDArray[np.uint8]:
        """Read one picture: (H, W, 3) uint8; DecodeError where it is broken."""
        ...

    def read_scaled_image(self, record: Record, canvas: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Read one picture scaled down to the canvas: (h, w, 3) uint8, and its (H, W) before."""
        image = self.read_image(record)
        original = (image.shape[0], image.shape[1])
        return scale_image(image, fit_size(original, canvas)), original

    def read_gt_label(self, record: Record) -> NDArray[np.uint8] | None:
        """Read one mask: (H, W) uint8, or None where there is none; DecodeError if it is broken."""
        ...

    def read_saliency(self, record: Record) -> NDArray[np.uint8] | None:
        """Read one saliency map: (H, W) uint8, or None where there is none; DecodeError if it is broken."""
        ...


class FileReader:
    """Reads the pictures and saliency maps that are files; a source adds how its masks are read."""

    def read_image(self, record: Record) -> NDArray[np.uint8]:
        """Read one picture: (H, W, 3) uint8."""
        return read_image(Path(record.picture))  # type: ignore[arg-type]

    def read_scaled_image(self, record: Record, canvas: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Read one picture scaled down to the canvas: (h, w, 3) uint8, and its (H, W) before."""
        return read_scaled_image(Path(record.picture), canvas)  # type: ignore[arg-type]

    def read_saliency(self, record: Record) -> NDArray[np.uint8] | None:
        """Read one saliency map: (H, W) uint8, or None where there is none."""
        return None if record.saliency is None else read_mask(record.saliency)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set, listed but not decoded.

    Attributes
    ----------
    kind : str
        Which source made it.
    where : str
        What an error calls the whole of it.
    classes : tuple of K str
        Foreground class names; class ``k`` has id ``k + 1``.
    records : Records
        ``N`` of them, sorted by id.
    reader : Reader
    gt_available : bool
        Whether any picture has a mask.
    saliency_available : bool
        Whether any picture has a saliency map.
    problems : tuple of str
        What is wrong with the lists, one line each; ingest adds unreadable files and raises all in one.
    without_class : tuple of str
        Pictures whose list of classes is empty; the word ``background`` alone is no empty list.
    without_row : tuple of str
        Pictures that no list names; they are left out.
    home : str
        What should name a picture: ``labels.csv``, ``labels.json`` or ``class folder``.
    way_out : str
        What to do about a class that no picture has.
    remarks : tuple of str
        What a person should know but that stops nothing.
    fingerprint : str
        Changes with every file that is added, removed or written anew.
    """

    kind: str
    where: str
    classes: tuple[str, ...]
    records: Records
    reader: Reader
    gt_available: bool
    saliency_available: bool = False
    problems: tuple[str, ...] = ()
    without_row: tuple[str, ...] = ()
    without_class: tuple[str, ...] = ()
    home: str = "labels.csv"
    way_out: str = "add some, or take it out of classes.txt (ids in masks follow the line numbers)"
    remarks: tuple[str, ...] = ()
    fingerprint: str = ""


@contextlib.contextmanager
def listing(path: Path, wanted: str, *, file: str = "is a file, not a folder") -> Iterator[None]:
    """List a folder: that it is none, or what the system refuses meanwhile, is a :class:`SourceError`.

    Parameters
    ----------
    path : Path
    wanted : str
        What ``source.path`` is to be set to.
    file : str
        What is said of a file.
    """
    with reaching(path):
        if is_remote(path):
            list_below(path, anew=True)
        if not path.is_dir():
            what = file if path.exists() else "not found"
            raise SourceError(str(path), [f"{what}. Set `source.path` to {wanted}"])
    try:
        with reaching(path):
            yield
    except UnicodeEncodeError as error:
        raise SourceError(str(path), [describe_strange_name(error)]) from error
    except OSError as error:
        raise SourceError(str(path), [f"cannot be listed ({error.strerror}: {error.filename})"]) from error


def count_things(count: int, noun: str) -> str:
    """Say how many: ``1 picture``, ``2 pictures``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def make_id(name: str) -> str:
    """Make a picture's id out of its relative path.

    Examples
    --------
    >>> make_id("dog/1.jpg")
    'dog__1'
    """
    return compose(strip_suffix(name)).replace("/", "__")


def digest_records(classes: Sequence[str], records: Sequence[Record], lists: Sequence[Path] = ()) -> str:
    """Digest names, labels, splits, and size and time of every file, so that no stale shard is reused.

    Parameters
    ----------
    classes : sequence of str
    records : sequence of Record
    lists : sequence of Path
        Further files that decide what the pictures or masks are.

    Returns
    -------
    str
    """
    digest = hashlib.sha256(repr(tuple(classes)).encode())
    for record in records:
        files = [f for f in (record.picture, record.mask, record.saliency) if is_file(f)]
        marks = _mark_files(files)
        digest.update(repr((record.id, record.split, record.image_labels.tolist(), marks)).encode())
    digest.update(repr(_mark_files(lists)).encode())
    return digest.hexdigest()


def _mark_files(files: Sequence[Path]) -> list[tuple[int, float]]:
    # fsspec does not know the time of every kind of file in nanoseconds
    return [(stat.st_size, stat.st_mtime_ns or stat.st_mtime) for stat in (file.stat() for file in files)]
