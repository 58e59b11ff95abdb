"""Zarr groups of arrays that are one image a chunk: created, written shard by shard, opened, read by row.

A shard of many chunks is one file, or one object under a URL, and the unit of writing, resuming and mapped
work. Only one writer may ever touch a shard: two lose data silently.

No timestamp, path or version goes into attributes, so that equal data give equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from dsrg.places import forget_copies, is_remote, open_zarr

LAYOUT_VERSION = 1
PICTURES = "image"  # the array that is always whole: looking for empty chunks would only take time
zarr.config.set({"codec_pipeline.batch_size": 64})  # chunk by chunk, writing takes a sixth more


class StoreError(Exception):
    """A store is missing, of another layout, or unreadable; the message says what to run."""


def create_group(path: Path, attributes: Mapping[str, Any]) -> zarr.Group:
    """Create an empty store at `path`; attribute keys are sorted so that bytes repeat."""
    attrs = dict(sorted({**attributes, "layout_version": LAYOUT_VERSION}.items()))
    return zarr.open_group(store=open_zarr(path, read_only=False), mode="w", zarr_format=3, attributes=attrs)


def create_sharded(
    group: zarr.Group, name: str, *, shape: Sequence[int], dtype: Any, shard: int, fill: float, level: int = 3
) -> zarr.Array[Any]:
    """Create an array of one image per chunk and `shard` images per file, zstd-compressed."""
    chunk = (1, *shape[1:])
    return group.create_array(
        name,
        shape=tuple(shape),
        chunks=chunk,
        shards=(min(shard, max(shape[0], 1)), *shape[1:]),
        dtype=dtype,
        fill_value=fill,
        compressors=[ZstdCodec(level=level, checksum=True)],
    )


def open_group(path: Path, *, stage: str, arrays: Sequence[str] = ()) -> zarr.Group:
    """Open a store for reading.

    Parameters
    ----------
    path : Path
        The store, or what came of its note by :func:`dsrg.places.follow`.
    stage : str
        The stage that makes it.
    arrays : sequence of str
        Those that it must have.

    Raises
    ------
    StoreError
        Not there, not a Zarr group, another layout version, or an array is missing. The message
        names `path` and the command that makes it.
    PlaceError
        It lies under a URL that cannot be reached.
    """
    if not is_remote(path) and not path.exists():
        raise StoreError(f"`{path}` not found. Run: dvc repro {stage}")
    try:
        group = zarr.open_group(store=open_zarr(path, read_only=True), mode="r", zarr_format=3)
    except zarr.errors.GroupNotFoundError as error:
        if is_remote(path):
            raise StoreError(f"`{path}` is gone from there. Run: dvc repro -f {stage}") from error
        raise StoreError(
            f"`{path}` is no readable Zarr store ({error}). Run: dvc repro -f {stage}"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"`{path}` is no readable Zarr store ({error}). Run: dvc repro -f {stage}"
        ) from error
    if group.attrs.get("layout_version") != LAYOUT_VERSION:
        raise StoreError(f"`{path}` has another layout version. Run: dvc repro -f {stage}")
    missing = [name for name in arrays if name not in group]
    if missing:
        raise StoreError(f"`{path}` lacks {', '.join(missing)}. Run: dvc repro -f {stage}")
    return group


def iterate_shards(count: int, shard: int) -> Iterator[tuple[int, slice]]:
    """Iterate over ``(shard number, rows)`` of an array of `count` images."""
    for number, start in enumerate(range(0, count, shard)):
        yield number, slice(start, min(start + shard, count))


def share_rows(
    rows: Sequence[int], *, count: int, shard: int
) -> Iterator[tuple[int, slice, tuple[int, ...]]]:
    """Iterate over ``(shard number, its rows, those of `rows` among them)`` of an array of `count` images."""
    wanted = np.zeros(count, bool)
    wanted[list(rows)] = True
    for number, span in iterate_shards(count, shard):
        yield number, span, tuple((np.flatnonzero(wanted[span]) + span.start).tolist())


def write_rows(path: Path, name: str, rows: slice, values: NDArray[Any]) -> None:
    """Write whole shards of one array of a store that exists already; they are safe when this returns.

    Parameters
    ----------
    path : Path
        The store.
    name : str
        Its array.
    rows : slice
        Must begin where a shard begins, and end where one ends or where the array ends: another writer
        of the same shard would lose data.
    values : (rows, ...) array
    """
    array = zarr.open_group(store=open_zarr(path, read_only=False), mode="r+", zarr_format=3)[name]
    assert isinstance(array, zarr.Array)
    shard = (array.shards or array.chunks)[0]
    if rows.start % shard or (rows.stop % shard and rows.stop != array.shape[0]):
        raise ValueError(f"`rows` must be whole shards of {shard}, got {rows.start} to {rows.stop}")
    # a chunk of nothing is left out of label maps; of pictures there is none, and looking for it takes time
    array.with_config({"write_empty_chunks": name == PICTURES})[rows] = values
    if is_remote(path):  # an object is there whole, or not at all
        return
    for number in range(rows.start // shard, -(-rows.stop // shard)):
        for place in (path / name / "c" / str(number)).rglob("*"):
            if place.is_file():
                with place.open("rb") as file:
                    os.fsync(file.fileno())


def finish_store(path: Path, *, digest: str) -> None:
    """Finish a store: note its digest, and remove what a killed writer left half-written.

    A killed process can leave ``*.partial`` files beside the shards; Zarr ignores them, but the store
    would no longer have the same bytes as one that was written undisturbed.
    """
    group = zarr.open_group(store=open_zarr(path, read_only=False), mode="r+", zarr_format=3)
    group.attrs["digest"] = digest
    if not is_remote(path):
        for leftover in path.rglob("*.partial"):
            leftover.unlink()


def read_row(array: zarr.Array[Any], row: int, *, path: Path, shard: int, stage: str) -> NDArray[Any]:
    """Read one image's chunk; `shard` is the number of images in a file, named if it is damaged."""
    try:
        try:
            return np.asarray(array[row])
        except (OSError, ValueError, RuntimeError):
            if not forget_copies(array, row // shard):
                raise
            return np.asarray(array[row])  # fetched anew: what was damaged may have been a copy
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError(
            f"`{path}` shard {row // shard} is damaged ({error}). Run: dvc repro -f {stage}"
        ) from error
