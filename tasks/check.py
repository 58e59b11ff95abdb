"""What ``dsrg check`` finds in a folder of pictures, by the code of ingest, without writing anything."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from dsrg.duplicates import find_near_duplicates
from dsrg.places import reaching
from dsrg.sources import Source, SourceError, detect_kind
from dsrg.sources.base import SPLITS, count_things
from dsrg.sources.checks import check_index, summarise_data
from dsrg.store import SHARD_IMAGES, SHARD_LABEL_MAPS
from tasks.errors import UserError
from tasks.estimates import estimate_run
from tasks.ingest_shards import (
    ShardJob,
    map_source,
    plan_shards,
    write_image_shard,
    write_saliency_shard,
    write_truth_shard,
)
from tasks.ingest_verdict import Settled, list_refusals, open_params_source, settle_source
from tasks.outcomes import Outcome, Outcomes
from tasks.params import Params
from tasks.schema import OF_ONE_KIND

MAX_PAIRS = 50
_MAX_COMPARED = 20_000
_IMBALANCE = 10
_FEW = 10


@dataclass(frozen=True, eq=False)
class _Decoded:
    """What became of every picture, saliency map and mask, and how long that took."""

    pictures: Outcomes
    maps: Outcomes
    masks: Outcomes
    seconds: float

    def take(self, rows: NDArray[np.int64]) -> _Decoded:
        return _Decoded(self.pictures.take(rows), self.maps.take(rows), self.masks.take(rows), self.seconds)


def choose_source(
    params: Params,
    path: Path | None,
    *,
    kind: str | None = None,
    categories: Sequence[str] | None = None,
    image_labels: str | None = None,
) -> Params:
    """Choose what to check: what ``params.yaml`` names, or what ``dsrg run PATH`` would make of `path`.

    Raises
    ------
    UserError
        The folder is not there, or the values do not go together.
    """
    source = params.source
    if path is None and kind is None:
        kind = source.kind
    with reaching(path or ""):
        if path is not None and not path.is_dir():
            raise UserError(f"`{path}` {'is a file, not a folder' if path.exists() else 'not found'}")
    if kind is None and path is not None:
        try:
            kind = detect_kind(path)
        except SourceError as error:
            raise UserError(f"{error} (here: --kind)") from None
    changes: dict[str, Any] = {"kind": kind}
    if path is not None:
        changes["path"] = str(path)
    if kind != source.kind:
        changes |= OF_ONE_KIND
    if categories:
        changes["categories"] = tuple(categories)
    if image_labels:
        changes["image_labels"] = image_labels
    try:
        chosen = type(source).model_validate({**source.model_dump(), **changes})
    except ValidationError as error:
        raise UserError("\n".join(f"source: {problem['msg']}" for problem in error.errors())) from None
    return params.model_copy(update={"source": chosen})


def check(params: Params, path: Path) -> dict[str, Any]:
    """Check the source that `params` names, as ingest would, and say what it would make of it.

    Parameters
    ----------
    params : Params
    path : Path
        ``source.path`` on this machine.

    Returns
    -------
    dict
        For JSON. ``problems`` is empty exactly where ingest would go through; then the rest is what ingest
        would make. Otherwise the rest speaks of the pictures that are whole, if there are any.
    """
    report: dict[str, Any] = {"path": str(path), "kind": params.source.kind, "problems": []}
    try:
        source = open_params_source(params, path)
    except SourceError as error:
        return {**report, "problems": list(error.problems), "remarks": []}
    report["remarks"] = list(source.remarks)
    decoded = _decode(source, params)
    problems = list_refusals(
        source, decoded.pictures, decoded.maps, decoded.masks, strict=params.ingest.strict
    )
    whole = decoded.pictures.whole
    if len(whole):
        kept = decoded.take(whole)
        settled = settle_source(
            replace(source, records=source.records.take(whole)),
            kept.pictures,
            near_duplicate_bits=params.ingest.near_duplicate_bits,
            val_fraction=params.ingest.val_fraction,
        )
        if not problems:
            problems = _judge_index(settled)
        report |= _describe(settled, kept, params)
    return {**report, "problems": problems, "pictures_listed": len(source.records)}


def _judge_index(settled: Settled) -> list[str]:
    try:
        check_index(settled.source, settled.index, split_given=settled.split_given)
    except SourceError as error:
        return list(error.problems)
    return []


# -- decoding ----------------------------------------------------------------------------------


def _decode(source: Source, params: Params) -> _Decoded:
    """Decode everything as ingest does, but write nothing."""
    start = time.monotonic()
    pictures = _look_through(write_image_shard, source, params, SHARD_IMAGES, "check pictures")
    maps = masks = Outcomes(len(source.records))
    if source.saliency_available:
        maps = _look_through(
            write_saliency_shard, source, params, SHARD_LABEL_MAPS, "check saliency", pictures
        )
    if source.gt_available:
        masks = _look_through(write_truth_shard, source, params, SHARD_LABEL_MAPS, "check masks", pictures)
    return _Decoded(pictures, maps, masks, time.monotonic() - start)


def _look_through(
    function: Callable[[ShardJob], list[Outcome]],
    source: Source,
    params: Params,
    shard: int,
    description: str,
    pictures: Outcomes | None = None,
) -> Outcomes:
    jobs = plan_shards(
        source, shard, name="check", canvas=params.ingest.canvas, store=None, pictures=pictures
    )
    found = Outcomes(len(source.records))
    results = map_source(function, jobs, source, compute=params.compute, description=description)
    for job, outcomes in zip(jobs, results, strict=True):
        found.put(job.rows.start, outcomes)
    return found


# -- description -------------------------------------------------------------------------------


def _describe(settled: Settled, decoded: _Decoded, params: Params) -> dict[str, Any]:
    source, index = settled.source, settled.index
    bits = params.ingest.near_duplicate_bits
    summary = summarise_data(
        source, index, settled.looks, decoded.masks.held, max_bits=bits, split_given=settled.split_given
    )
    del summary["remarks"], summary["near_duplicates"]
    summary["split"] = "given" if settled.split_given else "chosen"
    duplicates = _find_duplicates(settled, list(decoded.pictures.digests), bits)
    return {
        **summary,
        "duplicates": duplicates,
        "warnings": list(_warn(summary, duplicates, strict=params.ingest.strict)),
        "estimate": estimate_run(
            params, index, ingest_seconds=decoded.seconds, has_masks=source.gt_available
        ),
    }


def _find_duplicates(settled: Settled, digests: Sequence[str], bits: int) -> dict[str, Any]:
    """Find pairs of equal and nearly equal pictures; the latter within a split only of small data sets."""
    index, looks = settled.index, settled.looks
    names = {record.id: record.name for record in settled.source.records}
    found: dict[tuple[int, int], int] = {}
    for one, other, distance in _compare(settled, bits):
        found[min(one, other), max(one, other)] = distance
    pairs = []
    for (one, other), distance in sorted(found.items()):
        pairs.append(
            {
                "pictures": [names[str(index.ids[one])], names[str(index.ids[other])]],
                "equal": digests[one] == digests[other],
                "bits": distance,
                "across_splits": bool(index.splits[one] != index.splits[other]),
                "same_classes": bool((index.image_labels[one] == index.image_labels[other]).all()),
            }
        )
    pairs.sort(key=lambda pair: (not pair["across_splits"], pair["same_classes"], not pair["equal"]))
    return {
        "max_bits": bits,
        "equal": sum(pair["equal"] for pair in pairs),
        "near": sum(not pair["equal"] for pair in pairs),
        "across_splits": sum(pair["across_splits"] for pair in pairs),
        "of_other_classes": sum(not pair["same_classes"] for pair in pairs),
        "within_splits_compared": len(looks) <= _MAX_COMPARED,
        "first": pairs[:MAX_PAIRS],
    }


def _compare(settled: Settled, bits: int) -> Iterator[tuple[int, int, int]]:
    looks = settled.looks
    train, val = (settled.index.rows(split) for split in SPLITS)
    for a, b, distance in find_near_duplicates(looks[train], looks[val], max_bits=bits).tolist():
        yield int(train[a]), int(val[b]), distance
    for rows in (train, val) if len(looks) <= _MAX_COMPARED else ():
        for a, b, distance in find_near_duplicates(looks[rows], max_bits=bits).tolist():
            yield int(rows[a]), int(rows[b]), distance


def _warn(summary: dict[str, Any], duplicates: dict[str, Any], *, strict: bool) -> Iterator[str]:
    """Say in words what stops nothing, but makes results worse or numbers misleading."""
    train = summary["per_class"]["train"]
    if min(train.values(), default=0):
        most, least = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
        ratio = train[most] / train[least]
        if ratio > _IMBALANCE:
            yield (
                f"`{most}` has {ratio:.0f} times as many training pictures as `{least}` ({train[most]} and "
                f"{train[least]}): expect little of the rare classes, or add pictures of them"
            )
    few = [name for name, count in train.items() if 0 < count < _FEW]
    if few:
        yield f"fewer than {_FEW} training pictures: {', '.join(few)}"
    if duplicates["across_splits"]:
        yield (
            f"{count_things(duplicates['across_splits'], 'pair')} of equal or nearly equal pictures in both "
            "splits: "
            "scores will look better than they are; keep each pair on one side"
        )
    if duplicates["of_other_classes"]:
        yield (
            f"{count_things(duplicates['of_other_classes'], 'pair')} of equal or nearly equal pictures with "
            "different classes: one of the two labels may be wrong"
        )
    masks = summary["masks"]
    if not masks["available"]:
        yield "no masks: everything works but the scores"
    if masks["missing"]["count"]:
        yield f"{count_things(masks['missing']['count'], 'picture')} without a mask: not scored"
    if masks["contradict_image_labels"]["count"]:
        yield (
            f"{count_things(masks['contradict_image_labels']['count'], 'mask')} with other classes than the "
            f"image labels: {_name_some(masks['contradict_image_labels']['first'])}"
        )
    if summary["without_row"]["count"] and not strict:
        yield f"{count_things(summary['without_row']['count'], 'picture')} without labels: left out"
    if summary["without_class"]["count"] and not strict:
        yield (
            f"{count_things(summary['without_class']['count'], 'picture')} without any of the classes, taken "
            "for background: "
            f"{_name_some(summary['without_class']['first'])}"
        )


def _name_some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def write_run_command(params: Params) -> str:
    """Write the command that runs the pipeline on what was checked."""
    source = params.source
    command = f"dsrg run {source.path}" if source.kind != "synthetic" else "dsrg run"
    if source.image_labels == "masks":
        command += " --set source.image_labels=masks"
    if source.categories:
        command += f" --set 'source.categories={json.dumps(list(source.categories))}'"
    return command
