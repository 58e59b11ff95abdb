"""Stage ``ingest``: pictures, image labels and, for scoring only, masks into stores.

Three passes. The first decodes pictures into ``images.zarr`` and sees no mask, the second puts saliency
maps, where the source has them, into ``saliency.zarr``, the third puts masks into ``truth.zarr``.
Whatever is wrong with any file is collected on the way and told at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dsrg.groups import finish_store
from dsrg.sources import Source, SourceError
from dsrg.sources.base import SPLITS
from dsrg.sources.checks import check_index, summarise_data
from dsrg.store import (
    SHARD_IMAGES,
    SHARD_LABEL_MAPS,
    Index,
    complete_index,
    create_image_store,
    create_label_store,
)
from tasks import console
from tasks.ingest_shards import (
    ShardJob,
    map_source,
    plan_shards,
    write_image_shard,
    write_saliency_shard,
    write_truth_shard,
)
from tasks.ingest_verdict import list_refusals, open_params_source, settle_source
from tasks.outcomes import Outcome, Outcomes
from tasks.params import Params
from tasks.schema import Compute
from tasks.workspace import StageWork, Workspace

_IMAGES, _SALIENCY, _TRUTH = "images.zarr", "saliency.zarr", "truth.zarr"


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Read a source into stores and check it.

    Reads: ``source.path``
    Writes: ``data/images.zarr``, ``data/saliency.zarr``, ``data/truth.zarr``, ``metrics/ingest.json``

    Raises
    ------
    SourceError
        Lists all that is wrong, file by file; nothing is published then.
    """
    source = open_params_source(params, workspace.path(params.source.path))
    fingerprint = {
        "source": params.source.model_dump(),
        "ingest": params.ingest.model_dump(),
        "files": source.fingerprint,
    }
    compute = params.compute
    with workspace.stage("ingest", fingerprint=fingerprint, stores=params.compute.stores) as work:
        pictures = _store_images(source, work, canvas=params.ingest.canvas, compute=compute)
        maps = _store_saliency(source, work, pictures, canvas=params.ingest.canvas, compute=compute)
        masks = _store_truth(source, work, pictures, canvas=params.ingest.canvas, compute=compute)
        problems = list_refusals(source, pictures, maps, masks, strict=params.ingest.strict)
        if problems:
            raise SourceError(source.where, problems)
        settled = settle_source(
            source,
            pictures,
            near_duplicate_bits=params.ingest.near_duplicate_bits,
            val_fraction=params.ingest.val_fraction,
        )
        index = settled.index
        check_index(source, index, split_given=settled.split_given)
        complete_index(work.partial(_IMAGES), index)
        digest = hash_images(index, pictures, canvas=params.ingest.canvas)
        finish_store(work.partial(_IMAGES), digest=digest)
        finish_store(work.partial(_SALIENCY), digest=hash_maps(index, maps))
        finish_store(work.partial(_TRUTH), digest=hash_maps(index, masks))
        report = summarise_data(
            settled.source,
            index,
            settled.looks,
            masks.held,
            max_bits=params.ingest.near_duplicate_bits,
            split_given=settled.split_given,
        )
        work.publish(_SALIENCY, Path("data") / _SALIENCY)
        work.publish(_TRUTH, Path("data") / _TRUTH)
        work.publish(_IMAGES, Path("data") / _IMAGES)
        workspace.write_json("metrics/ingest.json", report)
    _print_report(report)


# -- first pass: pictures ----------------------------------------------------------------------


def _store_images(source: Source, work: StageWork, *, canvas: int, compute: Compute) -> Outcomes:
    path = work.partial(_IMAGES)
    if not work.is_done("created-images"):
        # Sizes and splits are known only after decoding: complete_index writes them then.
        count = len(source.records)
        blank = Index(
            classes=source.classes,
            ids=source.records.ids,
            splits=np.full(count, "", dtype="<U5"),
            sizes=np.zeros((count, 2), np.int32),
            original_sizes=np.zeros((count, 2), np.int32),
            image_labels=source.records.image_labels,
        )
        create_image_store(path, blank, canvas=canvas, source=source.kind)
        work.mark_done("created-images")
    jobs = plan_shards(source, SHARD_IMAGES, name="image", canvas=canvas, store=path)
    return _run_jobs(write_image_shard, jobs, source, work, compute=compute, description="ingest pictures")


def _run_jobs(
    function: Callable[[ShardJob], list[Outcome]],
    jobs: Sequence[ShardJob],
    source: Source,
    work: StageWork,
    *,
    compute: Compute,
    description: str,
) -> Outcomes:
    """Run the jobs that no earlier attempt finished; outcomes of all pictures."""
    waiting: list[ShardJob] = []
    earlier: list[ShardJob] = []
    for job in jobs:
        (earlier if work.is_done(job.unit) else waiting).append(job)
    notes = {job.unit: work.directory / f"{job.unit}.json" for job in jobs}
    found = Outcomes(len(source.records))
    for job, outcomes in zip(
        waiting,
        map_source(function, waiting, source, compute=compute, description=description),
        strict=True,
    ):
        found.put(job.rows.start, outcomes)
        if not any(outcome.problem for outcome in outcomes):
            with notes[job.unit].open("w", encoding="utf-8") as file:
                json.dump([asdict(outcome) for outcome in outcomes], file)
                file.flush()
                os.fsync(file.fileno())
            work.mark_done(job.unit)
    for job in earlier:
        found.put(job.rows.start, [Outcome(**note) for note in json.loads(notes[job.unit].read_text())])
    return found


# -- second and third pass: maps beside the pictures --------------------------------------------


def _store_saliency(
    source: Source, work: StageWork, pictures: Outcomes, *, canvas: int, compute: Compute
) -> Outcomes:
    jobs = _plan_maps(
        source, work, pictures, "saliency", _SALIENCY, canvas=canvas, available=source.saliency_available
    )
    return _run_jobs(write_saliency_shard, jobs, source, work, compute=compute, description="ingest saliency")


def _store_truth(
    source: Source, work: StageWork, pictures: Outcomes, *, canvas: int, compute: Compute
) -> Outcomes:
    jobs = _plan_maps(
        source, work, pictures, "gt_label", _TRUTH, canvas=canvas, available=source.gt_available
    )
    return _run_jobs(write_truth_shard, jobs, source, work, compute=compute, description="ingest masks")


def _plan_maps(
    source: Source,
    work: StageWork,
    pictures: Outcomes,
    array: str,
    store: str,
    *,
    canvas: int,
    available: bool,
) -> list[ShardJob]:
    """Create a store of maps, 255 everywhere, and list what is to be done; nothing if there are none."""
    path, count = work.partial(store), len(source.records)
    name = Path(store).stem
    if not work.is_done(f"created-{name}"):
        create_label_store(path, array, count=count, canvas=canvas, attributes={"available": available})
        work.mark_done(f"created-{name}")
    if not available:
        return []
    return plan_shards(source, SHARD_LABEL_MAPS, name=name, canvas=canvas, store=path, pictures=pictures)


# -- digests -----------------------------------------------------------------------------------


def hash_images(index: Index, pictures: Outcomes, *, canvas: int) -> str:
    """Hash all that ``images.zarr`` says: classes, and in row order ids, splits, sizes, labels, pixels."""
    digest = hashlib.sha256(json.dumps([index.classes, canvas]).encode())
    for row, pixels in enumerate(pictures.digests):
        held = np.flatnonzero(index.image_labels[row]).tolist()
        line = [str(index.ids[row]), str(index.splits[row]), index.sizes[row].tolist(), held, pixels]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def hash_maps(index: Index, maps: Outcomes) -> str:
    """Hash all that ``truth.zarr`` or ``saliency.zarr`` says: in row order ids and pixels."""
    digest = hashlib.sha256()
    for name, pixels in zip(index.ids, maps.digests, strict=True):
        digest.update(json.dumps([str(name), pixels]).encode())
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
    yield from report["remarks"]["first"]
    findings = {
        "pictures hold no class": report["without_class"],
        "pictures have no row or class folder and were left out": report["without_row"],
        "pictures have no mask: left out of scores": masks["missing"],
        "pictures have no saliency map: no background cues there": report["saliency"]["missing"],
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
