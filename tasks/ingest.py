"""Stage ``ingest``: pictures, image labels and, for scoring only, masks into stores.

Two passes. The first decodes pictures into ``images.zarr`` and sees no mask; the second puts masks
into ``truth.zarr``. Whatever is wrong with any file is collected on the way and told at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.duplicates import group_near_duplicates, hash_image
from dsrg.image import DecodeError, fit_size, place_on_canvas, scale_image, scale_label_map
from dsrg.labels import IGNORE_INDEX
from dsrg.sources import Reader, Record, Source, SourceError, open_source
from dsrg.sources.base import SPLITS, stack_image_labels
from dsrg.sources.checks import check_gt_label, check_index, list_held, summarise_data
from dsrg.sources.splits import choose_splits
from dsrg.store import (
    SHARD_IMAGES,
    SHARD_LABEL_MAPS,
    Index,
    complete_index,
    create_image_store,
    create_label_store,
    finish_store,
    iterate_shards,
    write_rows,
)
from tasks import console
from tasks.params import Params
from tasks.shards import map_shards
from tasks.workspace import StageWork, Workspace

_IMAGES, _TRUTH = "images.zarr", "truth.zarr"


@dataclass(frozen=True)
class Outcome:
    """What became of one picture, or of one mask; sizes are (height, width), None where it is broken.

    Attributes
    ----------
    problem : str
        One line that begins with the file, or empty.
    digest : str
        Of its pixels on the canvas.
    size, original_size : (2,) list of int or None
    look : int
        Perceptual hash (pictures only).
    held : list of int or None
        Class ids in the mask, or None if there is no mask (masks only).
    """

    problem: str = ""
    digest: str = ""
    size: Sequence[int] | None = None
    original_size: Sequence[int] | None = None
    look: int = 0
    held: Sequence[int] | None = None


@dataclass(frozen=True)
class ShardJob:
    """One shard's work: everything a worker needs, nothing more.

    Attributes
    ----------
    unit : str
        Name of the finished-shard mark.
    store : Path
    rows : slice
    records : tuple of Record
    reader : Reader
    canvas : int
    outcomes : tuple of Outcome
        What became of the pictures (second pass only).
    num_classes : int
        ``C``, background included (second pass only).
    """

    unit: str
    store: Path
    rows: slice
    records: tuple[Record, ...]
    reader: Reader
    canvas: int
    outcomes: tuple[Outcome, ...] = ()
    num_classes: int = 0


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Read a source into stores and check it.

    Reads: ``source.path``
    Writes: ``data/images.zarr``, ``data/truth.zarr``, ``metrics/ingest.json``

    Raises
    ------
    SourceError
        Lists all that is wrong, file by file; nothing is published then.
    """
    source = open_source(
        params.source.kind,
        workspace.path(params.source.path),
        num_train=params.source.num_train,
        num_val=params.source.num_val,
        size=params.source.size,
        random_seed=params.source.random_seed,
    )
    fingerprint = {
        "source": params.source.model_dump(),
        "ingest": params.ingest.model_dump(),
        "files": source.fingerprint,
    }
    workers = params.compute.workers
    with workspace.stage("ingest", fingerprint=fingerprint) as work:
        pictures = _store_images(source, work, canvas=params.ingest.canvas, workers=workers)
        masks = _store_truth(source, work, pictures, canvas=params.ingest.canvas, workers=workers)
        gaps = _list_gaps(source) if params.ingest.strict else ()
        problems = [*source.problems, *gaps, *(o.problem for o in (*pictures, *masks) if o.problem)]
        if problems:
            raise SourceError(source.where, problems)
        looks = np.array([picture.look for picture in pictures], np.uint64)
        bits = params.ingest.near_duplicate_bits
        split_given = all(record.split for record in source.records)
        if not split_given:
            source = _choose_splits(source, looks, bits, params.ingest.val_fraction)
        index = build_index(source, pictures)
        check_index(source.where, index, split_given=split_given)
        complete_index(work.partial(_IMAGES), index)
        digest = hash_images(index, pictures, canvas=params.ingest.canvas)
        finish_store(work.partial(_IMAGES), digest=digest)
        finish_store(work.partial(_TRUTH), digest=hash_masks(index, masks))
        held = [mask.held for mask in masks]
        report = summarise_data(source, index, looks, held, max_bits=bits, split_given=split_given)
        work.publish(_TRUTH, Path("data") / _TRUTH)
        work.publish(_IMAGES, Path("data") / _IMAGES)
        workspace.write_json("metrics/ingest.json", report)
    _print_report(report)


def _list_gaps(source: Source) -> Iterator[str]:
    """List pictures whose labels are missing: forgotten, most likely, unless the user says otherwise."""
    for name in source.without_row:
        yield f"{name}: has no row in labels.csv: add one, or leave such pictures out by ingest.strict=false"
    for name in source.without_class:
        yield (
            f"{name}: no class is named: name one, write `background` if it holds none, "
            "or take all such pictures for background by ingest.strict=false"
        )


# -- first pass: pictures ----------------------------------------------------------------------


def _store_images(source: Source, work: StageWork, *, canvas: int, workers: int) -> list[Outcome]:
    path = work.partial(_IMAGES)
    if not work.is_done("created-images"):
        # Sizes and splits are known only after decoding: complete_index writes them then.
        count = len(source.records)
        blank = Index(
            classes=source.classes,
            ids=np.array([record.id for record in source.records]),
            splits=np.full(count, "", dtype="<U5"),
            sizes=np.zeros((count, 2), np.int32),
            original_sizes=np.zeros((count, 2), np.int32),
            image_labels=stack_image_labels(source.records),
        )
        create_image_store(path, blank, canvas=canvas, source=source.kind)
        work.mark_done("created-images")
    jobs = [
        ShardJob(f"image-{number:05d}", path, rows, source.records[rows], source.reader, canvas)
        for number, rows in iterate_shards(len(source.records), SHARD_IMAGES)
    ]
    return _run_jobs(write_image_shard, jobs, work, workers=workers, description="ingest pictures")


def write_image_shard(job: ShardJob) -> list[Outcome]:
    """Decode the pictures of one shard and write it; broken pictures stay black."""
    block = np.zeros((len(job.records), job.canvas, job.canvas, 3), np.uint8)
    outcomes = []
    for slot, record in zip(block, job.records, strict=True):
        try:
            image = job.reader.read_image(record)
        except DecodeError as error:
            outcomes.append(Outcome(problem=f"{record.name}: {error}"))
            continue
        size = fit_size(image.shape[:2], job.canvas)
        scaled = scale_image(image, size)
        slot[:] = place_on_canvas(scaled, job.canvas, fill=0)
        outcomes.append(
            Outcome(
                digest=hashlib.sha256(slot.tobytes()).hexdigest(),
                size=size,
                original_size=image.shape[:2],
                look=hash_image(scaled),
            )
        )
    write_rows(job.store, "image", job.rows, block)
    return outcomes


def _run_jobs(
    function: Callable[[ShardJob], list[Outcome]],
    jobs: Sequence[ShardJob],
    work: StageWork,
    *,
    workers: int,
    description: str,
) -> list[Outcome]:
    """Run the jobs that no earlier attempt finished; outcomes of all jobs, in row order."""
    waiting = [job for job in jobs if not work.is_done(job.unit)]
    notes = {job.unit: work.directory / f"{job.unit}.json" for job in jobs}
    found: dict[str, list[Outcome]] = {}
    for job, outcomes in zip(
        waiting, map_shards(function, waiting, workers=workers, description=description), strict=True
    ):
        found[job.unit] = outcomes
        if not any(outcome.problem for outcome in outcomes):
            with notes[job.unit].open("w", encoding="utf-8") as file:
                json.dump([asdict(outcome) for outcome in outcomes], file)
                file.flush()
                os.fsync(file.fileno())
            work.mark_done(job.unit)
    for job in jobs:
        if job.unit not in found:
            found[job.unit] = [Outcome(**note) for note in json.loads(notes[job.unit].read_text())]
    return [outcome for job in jobs for outcome in found[job.unit]]


# -- second pass: masks ------------------------------------------------------------------------


def _store_truth(
    source: Source, work: StageWork, pictures: Sequence[Outcome], *, canvas: int, workers: int
) -> list[Outcome]:
    path = work.partial(_TRUTH)
    count = len(source.records)
    if not work.is_done("created-truth"):
        attributes = {"available": source.gt_available}
        create_label_store(path, "gt_label", count=count, canvas=canvas, attributes=attributes)
        work.mark_done("created-truth")
    if not source.gt_available:
        return [Outcome() for _ in source.records]
    jobs = [
        ShardJob(
            f"truth-{number:05d}",
            path,
            rows,
            source.records[rows],
            source.reader,
            canvas,
            outcomes=tuple(pictures[rows]),
            num_classes=len(source.classes) + 1,
        )
        for number, rows in iterate_shards(count, SHARD_LABEL_MAPS)
    ]
    return _run_jobs(write_truth_shard, jobs, work, workers=workers, description="ingest masks")


def write_truth_shard(job: ShardJob) -> list[Outcome]:
    """Decode the masks of one shard, check and write them; where there is none all stays 255."""
    block = np.full((len(job.records), job.canvas, job.canvas), IGNORE_INDEX, np.uint8)
    outcomes = []
    for slot, record, picture in zip(block, job.records, job.outcomes, strict=True):
        name = f"mask of {record.name}" if record.mask is None else f"masks/{record.mask.name}"
        try:
            gt_label = job.reader.read_gt_label(record)
            if gt_label is not None:
                check_gt_label(gt_label, picture.original_size, num_classes=job.num_classes)
        except DecodeError as error:
            outcomes.append(Outcome(problem=f"{name}: {error}"))
            continue
        if gt_label is None or picture.size is None:
            outcomes.append(Outcome())
            continue
        slot[:] = place_on_canvas(scale_label_map(gt_label, picture.size), job.canvas, fill=IGNORE_INDEX)
        digest = hashlib.sha256(slot.tobytes()).hexdigest()
        outcomes.append(Outcome(digest=digest, held=list_held(gt_label)))
    write_rows(job.store, "gt_label", job.rows, block)
    return outcomes


# -- the index ---------------------------------------------------------------------------------


def _choose_splits(source: Source, looks: NDArray[np.uint64], bits: int, val_fraction: float) -> Source:
    splits = choose_splits(
        [record.id for record in source.records],
        stack_image_labels(source.records),
        group_near_duplicates(looks, max_bits=bits),
        val_fraction=val_fraction,
    )
    records = zip(source.records, splits, strict=True)
    return replace(source, records=tuple(replace(record, split=str(split)) for record, split in records))


def build_index(source: Source, pictures: Sequence[Outcome]) -> Index:
    """Build the index of all pictures, in the order of their ids."""
    return Index(
        classes=source.classes,
        ids=np.array([record.id for record in source.records]),
        splits=np.array([record.split for record in source.records]),
        sizes=np.array([picture.size for picture in pictures], np.int32),
        original_sizes=np.array([picture.original_size for picture in pictures], np.int32),
        image_labels=stack_image_labels(source.records),
    )


def hash_images(index: Index, pictures: Sequence[Outcome], *, canvas: int) -> str:
    """Hash all that ``images.zarr`` says: classes, and in row order ids, splits, sizes, labels, pixels."""
    digest = hashlib.sha256(json.dumps([index.classes, canvas]).encode())
    for row, picture in enumerate(pictures):
        held = np.flatnonzero(index.image_labels[row]).tolist()
        line = [str(index.ids[row]), str(index.splits[row]), index.sizes[row].tolist(), held, picture.digest]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def hash_masks(index: Index, masks: Sequence[Outcome]) -> str:
    """Hash all that ``truth.zarr`` says: in row order ids and pixels."""
    digest = hashlib.sha256()
    for name, mask in zip(index.ids, masks, strict=True):
        digest.update(json.dumps([str(name), mask.digest]).encode())
    return digest.hexdigest()


# -- the report --------------------------------------------------------------------------------


def _print_report(report: dict[str, Any]) -> None:
    columns = ["class", *SPLITS]
    rows = [
        [name, *(str(report["per_class"][split][name]) for split in SPLITS)] for name in report["classes"]
    ]
    rows.append(["pictures", *(str(report["pictures"][split]) for split in SPLITS)])
    console.print_table("Pictures per class", columns, rows)
    for line in _list_findings(report):
        console.say(line)


def _list_findings(report: dict[str, Any]) -> Iterator[str]:
    height, width = report["height"], report["width"]
    yield (
        f"height {height['min']} to {height['max']}, median {height['median']}; width {width['min']} to "
        f"{width['max']}, median {width['median']}; {report['scaled_down']} scaled down; "
        f"split {report['split']}"
    )
    masks = report["masks"]
    findings = {
        "remarks": report["remarks"],
        "pictures hold no class": report["without_class"],
        "pictures have no row in labels.csv and were left out": report["without_row"],
        "pictures have no mask: left out of scores": masks["missing"],
        "masks hold other classes than the image labels": masks["contradict_image_labels"],
    }
    for text, found in findings.items():
        if found["count"]:
            names = ", ".join(found["first"][:3])
            yield f"{found['count']} {text}: {names}{', ...' if found['count'] > 3 else ''}"
    near = report["near_duplicates"]
    if near["across_splits"]:
        first = near["first"][0]
        yield (
            f"{near['across_splits']} near-duplicate pairs across splits (listed in metrics/ingest.json): "
            f"{first['train']} and {first['val']}, ..."
        )
    if not masks["available"]:
        yield "no masks: everything works but the scores"
