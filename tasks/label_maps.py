"""Label maps of all training pictures, computed in a pool and written shard by shard.

Pictures are handed out in small lots, so that all processes are busy whatever the size of the data
set; only this process writes, so that no shard ever has two writers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dsrg.labels import IGNORE_INDEX
from dsrg.store import SHARD_LABEL_MAPS, create_label_store, finish_store, iterate_shards, write_rows
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
    workers: int,
    in_threads: bool = True,
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
    workers, in_threads
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
    wanted = {int(row) for row in rows}
    waiting = [
        (number, span)
        for number, span in iterate_shards(count, SHARD_LABEL_MAPS)
        if not work.is_done(f"{store}-{number}")
    ]
    lots = [
        tuple(group)
        for _, span in waiting
        for group in _cut([row for row in range(span.start, span.stop) if row in wanted])
    ]
    results = iter(
        map_shards(
            draw,
            [make_lot(lot) for lot in lots],
            workers=workers,
            description=description,
            in_threads=in_threads,
        )
    )
    pending = iter(lots)
    for number, span in waiting:
        block = np.full((span.stop - span.start, canvas, canvas), IGNORE_INDEX, np.uint8)
        for _ in _cut([row for row in range(span.start, span.stop) if row in wanted]):
            for row, label_map in zip(next(pending), next(results), strict=True):
                block[row - span.start, : label_map.shape[0], : label_map.shape[1]] = label_map
        write_rows(path, array, span, block)
        work.mark_done(f"{store}-{number}")
    for _ in results:  # lets the progress bar end
        raise AssertionError("more lots than shards hold")
    finish_store(path, digest=work.digest)
    return path


def _cut(rows: list[int]) -> list[list[int]]:
    return [rows[start : start + _LOT] for start in range(0, len(rows), _LOT)]
