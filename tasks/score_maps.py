"""Per-class maps of all training pictures, computed by a network and written shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.cam import CAM_STRIDE
from dsrg.groups import finish_store, share_rows, write_rows
from dsrg.inference import group_by_size
from dsrg.store import SHARD_IMAGES, ImageStore, create_score_store
from tasks import console
from tasks.pictures import open_images
from tasks.prepared import prepare_once
from tasks.schema import NO_CLUSTER, Compute
from tasks.shards import map_in_threads, map_shards
from tasks.workspace import StageWork


@dataclass(frozen=True)
class Computer:
    """What computes maps.

    Attributes
    ----------
    compute : callable
        ``(rows, pictures (B, H, W, 3) uint8) -> B maps (P, h, w)`` of a batch of equal size.
    batch_size : int
        The largest number of pictures given to it.
    threads : int
        That many may call it at a time.
    """

    compute: Callable[[list[int], NDArray[np.uint8]], Iterable[NDArray[np.float32]]]
    batch_size: int
    threads: int


@dataclass(frozen=True)
class _Shard:
    """A shard to be filled; `rows` are the pictures in it that are wanted."""

    number: int
    images: Path
    path: Path
    array: str
    span: slice
    planes: int
    rows: tuple[int, ...]


def fill_score_store(
    prepare: Callable[[], Computer],
    images: ImageStore,
    rows: Sequence[int],
    *,
    work: StageWork,
    store: str,
    array: str,
    planes: int,
    compute: Compute,
    attributes: Mapping[str, Any],
    description: str,
) -> Path:
    """Fill a store of per-class maps on the grid of CAMs; pictures outside `rows` stay 0.

    Parameters
    ----------
    prepare : callable
        A :func:`functools.partial` of a top-level function, of values that can be pickled: every process
        that is to compute calls it once.
    images : ImageStore
    rows : sequence of int
        The pictures to compute.
    work : StageWork
        Finished shards are remembered there.
    store, array : str
        Names of the store (built as a partial output of `work`) and of its array.
    planes : int
        The largest number of maps of one picture.
    compute : Compute
        Its `cluster`, if one is named, fills the shards, each of its workers some.
    attributes : mapping
        Of the store, without its digest and stride.

    Returns
    -------
    Path
        The complete store, ready to be published.
    """
    path, count = work.partial(store), len(images)
    if not work.is_done(f"created-{array}"):
        about = {**attributes, "stride": CAM_STRIDE}
        grid = images.canvas // CAM_STRIDE
        create_score_store(path, array, count=count, planes=planes, grid=grid, attributes=about)
        work.mark_done(f"created-{array}")
    shards = [
        _Shard(
            number,
            images.path,
            path,
            array,
            span,
            planes,
            own,
        )
        for number, span, own in share_rows(rows, count=count, shard=SHARD_IMAGES)
        if not work.is_done(f"{array}-{number}")
    ]
    if compute.cluster == NO_CLUSTER:
        _fill_here(prepare, images, shards, work=work, total=len(rows), description=description)
    else:
        fill = partial(_fill_elsewhere, prepare)
        for number in map_shards(fill, shards, compute=compute, description=description):
            work.mark_done(f"{array}-{number}")
    finish_store(path, digest=work.digest)
    return path


def _fill_here(
    prepare: Callable[[], Computer],
    images: ImageStore,
    shards: Sequence[_Shard],
    *,
    work: StageWork,
    total: int,
    description: str,
) -> None:
    """Fill shard after shard, whose pictures are seen by a few threads."""
    if not shards:
        return
    computer = prepare()
    seen = total - sum(len(shard.rows) for shard in shards)
    with console.show_progress(description) as report:
        for shard in shards:

            def tell(done: int, before: int = seen) -> None:
                report(before + done, total)

            _fill(shard, images, computer, threads=computer.threads, tell=tell)
            seen += len(shard.rows)
            work.mark_done(f"{shard.array}-{shard.number}")


def _fill_elsewhere(prepare: Callable[[], Computer], shard: _Shard) -> int:
    """Fill a shard, in a worker of a cluster, whose threads each fill one; return its number."""
    computer = prepare_once(shard.array, prepare)
    _fill(shard, open_images(shard.images), computer, threads=1, tell=lambda _: None)
    return shard.number


def _fill(
    shard: _Shard, images: ImageStore, computer: Computer, *, threads: int, tell: Callable[[int], None]
) -> None:
    def read_and_compute(batch: list[int]) -> list[NDArray[np.float32]]:
        return list(computer.compute(batch, np.stack([images.read_image(row) for row in batch])))

    grid = images.canvas // CAM_STRIDE
    block = np.zeros((shard.span.stop - shard.span.start, shard.planes, grid, grid), np.float16)
    batches = list(group_by_size(shard.rows, images.index.sizes, batch_size=computer.batch_size))
    done = 0
    for batch, found in zip(batches, map_in_threads(read_and_compute, batches, threads), strict=True):
        for row, maps in zip(batch, found, strict=True):
            block[row - shard.span.start, : len(maps), : maps.shape[1], : maps.shape[2]] = maps
        done += len(batch)
        tell(done)
    write_rows(shard.path, shard.array, shard.span, block)
