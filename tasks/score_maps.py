"""Per-class maps of all training pictures, computed by a network and written shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.cam import CAM_STRIDE
from dsrg.inference import group_by_size
from dsrg.store import (
    SHARD_IMAGES,
    ImageStore,
    create_score_store,
    finish_store,
    iterate_shards,
    write_rows,
)
from tasks import console
from tasks.shards import map_in_threads
from tasks.workspace import StageWork


def fill_score_store(
    compute: Callable[[list[int], NDArray[np.uint8]], Iterable[NDArray[np.float32]]],
    images: ImageStore,
    rows: Sequence[int],
    *,
    work: StageWork,
    store: str,
    array: str,
    planes: int,
    batch_size: int,
    threads: int,
    attributes: Mapping[str, Any],
    description: str,
) -> Path:
    """Fill a store of per-class maps on the grid of CAMs; pictures outside `rows` stay 0.

    Parameters
    ----------
    compute : callable
        ``(rows, pictures (B, H, W, 3) uint8) -> B maps (P, h, w)`` of a batch of equal size.
    images : ImageStore
    rows : sequence of int
        The pictures to compute.
    work : StageWork
        Finished shards are remembered there.
    store, array : str
        Names of the store (built as a partial output of `work`) and of its array.
    planes : int
        The largest number of maps of one picture.
    batch_size : int
        The largest number of pictures given to `compute`.
    threads : int
        That many call `compute` at a time.
    attributes : mapping
        Of the store, without its digest and stride.

    Returns
    -------
    Path
        The complete store, ready to be published.
    """
    path, count, grid = work.partial(store), len(images), images.canvas // CAM_STRIDE
    if not work.is_done(f"created-{array}"):
        about = {**attributes, "stride": CAM_STRIDE}
        create_score_store(path, array, count=count, planes=planes, grid=grid, attributes=about)
        work.mark_done(f"created-{array}")
    wanted, seen = set(rows), 0

    def read_and_compute(batch: list[int]) -> list[NDArray[np.float32]]:
        return list(compute(batch, np.stack([images.read_image(row) for row in batch])))

    with console.show_progress(description) as report:
        for number, span in iterate_shards(count, SHARD_IMAGES):
            own = [row for row in range(span.start, span.stop) if row in wanted]
            if work.is_done(f"{array}-{number}"):
                seen += len(own)
                continue
            block = np.zeros((span.stop - span.start, planes, grid, grid), np.float16)
            batches = list(group_by_size(own, images.index.sizes, batch_size=batch_size))
            for batch, found in zip(batches, map_in_threads(read_and_compute, batches, threads), strict=True):
                for row, maps in zip(batch, found, strict=True):
                    block[row - span.start, : len(maps), : maps.shape[1], : maps.shape[2]] = maps
                seen += len(batch)
                report(seen, len(wanted))
            write_rows(path, array, span, block)
            work.mark_done(f"{array}-{number}")
    finish_store(path, digest=work.digest)
    return path
