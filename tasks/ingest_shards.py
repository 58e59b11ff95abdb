"""One shard of pictures, masks or saliency maps: decoded, checked, brought to the canvas, written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.duplicates import hash_image
from dsrg.groups import iterate_shards, write_rows
from dsrg.image import DecodeError, place_on_canvas, scale_label_map
from dsrg.labels import IGNORE_INDEX
from dsrg.sources import Reader, Record, Records, Source
from dsrg.sources.base import fetch_files
from dsrg.sources.checks import check_gt_label, check_size
from dsrg.sources.ids import list_held
from tasks.outcomes import Outcome, Outcomes
from tasks.schema import Compute
from tasks.shards import map_shards

Read = Callable[[Record, Sequence[int] | None], "NDArray[np.uint8] | None"]


@dataclass(frozen=True)
class ShardJob:
    """One shard's work: everything a worker needs, nothing more.

    Attributes
    ----------
    unit : str
        Name of the finished-shard mark.
    store : Path or None
        None writes nothing: the shard is only looked at.
    rows : slice
    records : Records
    reader : Reader
    canvas : int
    num_classes : int
        ``C``, background included.
    sizes, original_sizes : (rows, 2) int32
        Of the pictures, if they were read before; 0 where one is broken.
    """

    unit: str
    store: Path | None
    rows: slice
    records: Records
    reader: Reader
    canvas: int
    num_classes: int
    sizes: NDArray[np.int32]
    original_sizes: NDArray[np.int32]


def plan_shards(
    source: Source,
    rows_per_shard: int,
    *,
    name: str,
    canvas: int,
    store: Path | None,
    pictures: Outcomes | None = None,
) -> list[ShardJob]:
    """Plan a pass over a source, shard by shard.

    Parameters
    ----------
    source : Source
    rows_per_shard : int
    name : str
        Begins the units: ``image-00000``.
    canvas, store
        As in :class:`ShardJob`.
    pictures : Outcomes, optional
        What became of the pictures (maps only).
    """
    known = Outcomes(len(source.records)) if pictures is None else pictures
    return [
        ShardJob(
            f"{name}-{number:05d}",
            store,
            rows,
            source.records[rows],
            source.reader,
            canvas,
            len(source.classes) + 1,
            known.sizes[rows],
            known.original_sizes[rows],
        )
        for number, rows in iterate_shards(len(source.records), rows_per_shard)
    ]


def map_source(
    function: Callable[[ShardJob], list[Outcome]],
    jobs: Sequence[ShardJob],
    source: Source,
    *,
    compute: Compute,
    description: str,
) -> Iterator[list[Outcome]]:
    """Call `function` on the shards of a pass over a source; see :func:`tasks.shards.map_shards`."""
    decodes = source.kind != "synthetic"  # in compiled code; scenes are drawn by Python itself
    return map_shards(function, jobs, compute=compute, description=description, in_threads=decodes)


def write_image_shard(job: ShardJob) -> list[Outcome]:
    """Decode the pictures of one shard and write it; broken pictures stay black."""
    block = np.zeros((len(job.records), job.canvas, job.canvas, 3), np.uint8)
    with fetch_files(job.records, "picture") as records:
        outcomes = [_fill_slot(slot, record, job) for slot, record in zip(block, records, strict=True)]
    if job.store is not None:
        write_rows(job.store, "image", job.rows, block)
    return outcomes


def _fill_slot(slot: NDArray[np.uint8], record: Record, job: ShardJob) -> Outcome:
    try:
        image, original_size = job.reader.read_scaled_image(record, job.canvas)
    except DecodeError as error:
        return Outcome(problem=f"{record.name}: {error}")
    height, width = image.shape[:2]
    slot[:height, :width] = image
    return Outcome(
        digest=hashlib.sha256(slot.data).hexdigest(),
        size=(height, width),
        original_size=original_size,
        look=hash_image(image),
    )


def write_truth_shard(job: ShardJob) -> list[Outcome]:
    """Decode the masks of one shard, check and write them; where there is none all stays 255."""

    def read(record: Record, size: Sequence[int] | None) -> NDArray[np.uint8] | None:
        gt_label = job.reader.read_gt_label(record)
        if gt_label is not None:
            check_gt_label(gt_label, size, num_classes=job.num_classes)
        return gt_label

    return _write_maps(job, "gt_label", read, lambda record: record.mask_name)


def write_saliency_shard(job: ShardJob) -> list[Outcome]:
    """Decode the saliency maps of one shard, check and write them; where there is none all stays 255."""

    def read(record: Record, size: Sequence[int] | None) -> NDArray[np.uint8] | None:
        saliency = job.reader.read_saliency(record)
        if saliency is not None:
            check_size(saliency, size)
        return saliency

    return _write_maps(job, "saliency", read, _name_saliency)


def _name_saliency(record: Record) -> str:
    return f"saliency/{record.saliency.name}" if record.saliency else f"saliency of {record.name}"


def _write_maps(job: ShardJob, array: str, read: Read, name: Callable[[Record], str]) -> list[Outcome]:
    block = np.full((len(job.records), job.canvas, job.canvas), IGNORE_INDEX, np.uint8)
    outcomes = []
    with fetch_files(job.records, "mask" if array == "gt_label" else array) as records:
        for slot, record, size, original_size in zip(
            block, records, job.sizes.tolist(), job.original_sizes.tolist(), strict=True
        ):
            broken = not all(size)
            try:
                found = read(record, None if broken else original_size)
            except DecodeError as error:
                outcomes.append(Outcome(problem=f"{name(record)}: {error}"))
                continue
            if found is None or broken:
                outcomes.append(Outcome())
                continue
            slot[:] = place_on_canvas(scale_label_map(found, size), job.canvas, fill=IGNORE_INDEX)
            digest = hashlib.sha256(slot.data).hexdigest()
            held = list_held(found) if array == "gt_label" else None
            outcomes.append(Outcome(digest=digest, held=held))
    if job.store is not None:
        write_rows(job.store, array, job.rows, block)
    return outcomes
