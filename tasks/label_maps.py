"""Label maps of all training pictures, computed in a pool and written shard by shard.

Pictures are handed out in small lots, so that all processes are busy whatever the size of the data
set; only this process writes, so that no shard ever has two writers. A cluster's workers get whole shards and
write them: maps do not travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dsrg.groups import finish_store, share_rows, write_rows
from dsrg.labels import IGNORE_INDEX
from dsrg.store import SHARD_LABEL_MAPS, create_label_store
from tasks.schema import NO_CLUSTER, Compute
from tasks.shards import map_shards
from tasks.workspace import StageWork

Lot = TypeVar("Lot")
_LOT = 8


def fill_label_store(
    draw: Callable[[Lot], list[NDArray[np.uint8]]],
    make_lot: Callable[[tuple[int, ...]], Lot],
    *,
    work: StageWork,
    store: str,
    array: str,
    rows: Sequence[int],
    count: int,
    canvas: int,
    attributes: Mapping[str, Any],
    compute: Compute,
    in_threads: bool = True,
    light: bool = False,
    description: str,
) -> Path:
    """Fill a store of label maps; pictures outside `rows` stay unlabelled.

    Parameters
    ----------
    draw : callable
        Top-level function of one lot: the label maps of its rows, each of the picture's own size.
    make_lot : callable
        Makes the picklable lot of a few rows.
    work : StageWork
        Finished shards are remembered there.
    store, array : str
        Names of the store (built as a partial output of `work`) and of its array.
    rows : sequence of int
        The pictures to draw.
    count, canvas : int
        ``N`` and ``S`` of the store.
    attributes : mapping
        Of the store, without its digest.
    compute, in_threads, light
        As of :func:`tasks.shards.map_shards`.

    Returns
    -------
    Path
        The complete store, ready to be published.
    """
    path = work.partial(store)
    if not work.is_done(f"created-{store}"):
        create_label_store(path, array, count=count, canvas=canvas, attributes=dict(attributes))
        work.mark_done(f"created-{store}")
    shards = [
        _Shard(
            number=number,
            path=path,
            array=array,
            span=span,
            canvas=canvas,
            rows=own,
            lots=tuple(make_lot(lot) for lot in _cut(own)),
        )
        for number, span, own in share_rows(rows, count=count, shard=SHARD_LABEL_MAPS)
        if not work.is_done(f"{store}-{number}")
    ]
    if compute.cluster == NO_CLUSTER:
        lots = [lot for shard in shards for lot in shard.lots]
        drawn = map_shards(
            draw, lots, compute=compute, description=description, in_threads=in_threads, light=light
        )
        written = _write_drawn(shards, drawn)
    else:
        written = map_shards(partial(_draw_shard, draw), shards, compute=compute, description=description)
    for number in written:
        work.mark_done(f"{store}-{number}")
    finish_store(path, digest=work.digest)
    return path


@dataclass(frozen=True)
class _Shard(Generic[Lot]):
    """A shard to be written, and the lots of its pictures."""

    number: int
    path: Path
    array: str
    span: slice
    canvas: int
    rows: tuple[int, ...]
    lots: tuple[Lot, ...]

    def write(self, drawn: Iterable[list[NDArray[np.uint8]]]) -> int:
        """Write what was drawn of its lots; return its number."""
        block = np.full((self.span.stop - self.span.start, self.canvas, self.canvas), IGNORE_INDEX, np.uint8)
        label_maps = (label_map for lot in drawn for label_map in lot)
        for row, label_map in zip(self.rows, label_maps, strict=True):
            block[row - self.span.start, : label_map.shape[0], : label_map.shape[1]] = label_map
        write_rows(self.path, self.array, self.span, block)
        return self.number


def _write_drawn(shards: Iterable[_Shard[Lot]], drawn: Iterator[list[NDArray[np.uint8]]]) -> Iterator[int]:
    """Write shard after shard from what was drawn of all their lots, and tell their numbers."""
    for shard in shards:
        yield shard.write([next(drawn) for _ in shard.lots])
    for _ in drawn:  # lets the progress bar end
        raise AssertionError("more lots than shards hold")


def _draw_shard(draw: Callable[[Lot], list[NDArray[np.uint8]]], shard: _Shard[Lot]) -> int:
    return shard.write(map(draw, shard.lots))


def _cut(rows: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(rows[start : start + _LOT]) for start in range(0, len(rows), _LOT)]
