"""Stage ``baseline``: what CAMs, CAMs with a CRF and cues reach without training; scoring only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.labels import list_present
from dsrg.metrics import count_pixels
from dsrg.scaling import scale_maps
from dsrg.scoring import (
    summarise_labels,
    summarise_predictions,
    sweep_exponents,
    sweep_thresholds,
)
from dsrg.store import LabelStore, ScoreStore, count_cells
from tasks import console
from tasks.params import Params
from tasks.pictures import begin_with_images, open_images
from tasks.shards import map_shards
from tasks.workspace import Workspace

METRICS = "metrics/baseline.json"
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
EXPONENTS = (0.25, 0.5, 1.0, 2.0, 4.0)
_ROWS_PER_JOB = 8


@dataclass(frozen=True)
class SweepJob:
    """A few train pictures: all that a worker needs.

    Attributes
    ----------
    images, truth, cams, cues : Path
    rows : tuple of int
    crfs : tuple of R dict
        Settings of `dsrg.crf.refine_probs`; each is tried with every exponent.
    """

    images: Path
    truth: Path
    cams: Path
    cues: Path
    rows: tuple[int, ...]
    crfs: tuple[dict[str, Any], ...]


@dataclass
class SweepCounts:
    """Pixel counts by threshold (T, C, C + 1), by CRF and exponent (R, E, C, C + 1), of cues (C, C + 1)."""

    thresholds: NDArray[np.int64]
    exponents: NDArray[np.int64]
    cues: NDArray[np.int64]

    @classmethod
    def zeros(cls, num_classes: int, num_crfs: int) -> SweepCounts:
        """Start counting."""
        table = (num_classes, num_classes + 1)
        return cls(
            np.zeros((len(THRESHOLDS), *table), np.int64),
            np.zeros((num_crfs, len(EXPONENTS), *table), np.int64),
            np.zeros(table, np.int64),
        )

    def add(self, other: SweepCounts) -> None:
        """Add the counts of other pictures."""
        self.thresholds += other.thresholds
        self.exponents += other.exponents
        self.cues += other.cues


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Score the best single-threshold CAM, CAM + CRF and the cues on the train split.

    Threshold, exponent and CRF (that of the cues or that of the pseudo-labels) are picked by the truth
    and called oracles: no training could know them, and none is told.

    Reads: ``data/images.zarr``, ``data/truth.zarr``, ``data/cams.zarr``, ``data/cues.zarr``
    Writes: ``metrics/baseline.json``
    """
    paths = {name: workspace.path(f"data/{name}.zarr") for name in ("images", "truth", "cams", "cues")}
    index = begin_with_images(paths["images"]).index
    truth = LabelStore(paths["truth"], "gt_label", stage="ingest")
    if not truth.attributes["available"]:
        workspace.write_json(METRICS, {"available": False})
        console.say("no true masks: nothing to score CAMs and cues against")
        return
    rows = [int(row) for row in index.rows("train")]
    crfs = {"cues": params.cues.crf, "refine": params.refine.crf}
    if crfs["cues"] == crfs["refine"]:
        del crfs["refine"]
    settings = tuple(crf.model_dump() for crf in crfs.values())
    jobs = [
        SweepJob(**paths, rows=tuple(rows[start : start + _ROWS_PER_JOB]), crfs=settings)
        for start in range(0, len(rows), _ROWS_PER_JOB)
    ]
    counts = SweepCounts.zeros(index.num_classes, len(crfs))
    for part in map_shards(
        sweep_rows,
        jobs,
        compute=params.compute,
        description="baseline",
        in_threads=all(crf.in_threads for crf in crfs.values()),
    ):
        counts.add(part)
    summary = summarise_sweep(counts, index.classes, crf_names=tuple(crfs), images=len(rows))
    workspace.write_json(METRICS, summary)
    _show(summary)


def sweep_rows(job: SweepJob) -> SweepCounts:
    """Count the pictures of one job."""
    images = open_images(job.images)
    index = images.index
    truth = LabelStore(job.truth, "gt_label", stage="ingest")
    cues = LabelStore(job.cues, "cue", stage="cues")
    cams = ScoreStore(job.cams, "cam", stage="cams")
    stride = int(cams.attributes["stride"])
    counts = SweepCounts.zeros(index.num_classes, len(job.crfs))
    for row in job.rows:
        size = index.sizes[row]
        ids = list_present(index.image_labels[row])[1:]
        scaled = scale_maps(cams.read(row, len(ids), count_cells(size, stride)), size)
        gt_label = truth.read(row, size)
        classes = index.num_classes
        counts.thresholds += sweep_thresholds(
            scaled, ids, gt_label, thresholds=THRESHOLDS, num_classes=classes
        )
        image = images.read_image(row)
        for number, crf in enumerate(job.crfs):
            counts.exponents[number] += sweep_exponents(
                scaled, ids, image, gt_label, exponents=EXPONENTS, num_classes=classes, crf=crf
            )
        counts.cues += count_pixels(gt_label, cues.read(row, size), num_classes=classes)
    return counts


def summarise_sweep(
    counts: SweepCounts, classes: Sequence[str], *, crf_names: Sequence[str], images: int
) -> dict[str, Any]:
    """Summarise the counts: the best of each sweep, every value of it, and the cues' quality."""
    thresholds = [summarise_predictions(table, classes) for table in counts.thresholds]
    exponents = [
        [summarise_predictions(table, classes) for table in of_one_crf] for of_one_crf in counts.exponents
    ]
    threshold = _find_best([found["miou"] for found in thresholds])
    crf, exponent = divmod(
        _find_best([found["miou"] for of_one_crf in exponents for found in of_one_crf]), len(EXPONENTS)
    )
    return {
        "available": True,
        "images": images,
        "cam": {
            **thresholds[threshold],
            "oracle_threshold": THRESHOLDS[threshold],
            "miou_by_threshold": _name_values(THRESHOLDS, thresholds),
        },
        "cam_crf": {
            **exponents[crf][exponent],
            "oracle_crf": crf_names[crf],
            "oracle_exponent": EXPONENTS[exponent],
            "miou_by_exponent": {
                name: _name_values(EXPONENTS, of_one_crf)
                for name, of_one_crf in zip(crf_names, exponents, strict=True)
            },
        },
        "cues": summarise_labels(counts.cues, classes),
    }


def _find_best(miou: Sequence[float]) -> int:
    return int(np.nanargmax(miou)) if not np.isnan(miou).all() else 0


def _name_values(values: Sequence[float], summaries: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {f"{value:g}": found["miou"] for value, found in zip(values, summaries, strict=True)}


def _show(summary: dict[str, Any]) -> None:
    cam, cam_crf, cues = summary["cam"], summary["cam_crf"], summary["cues"]
    rows = [
        (f"best CAM threshold {cam['oracle_threshold']:g} (by truth)", _percent(cam["miou"])),
        (
            f"CAM + CRF of {cam_crf['oracle_crf']}, exponent {cam_crf['oracle_exponent']:g} (by truth)",
            _percent(cam_crf["miou"]),
        ),
        ("cues: all labelled", _percent(cues["all"]["coverage"])),
        ("cues: foreground precision", _percent(cues["foreground"]["precision"])),
        ("cues: foreground recall", _percent(cues["foreground"]["recall"])),
        ("cues: background precision", _percent(cues["background"]["precision"])),
        ("cues: background recall", _percent(cues["background"]["recall"])),
    ]
    console.print_table("train split, without any segmenter", ("", "%"), rows)


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"
