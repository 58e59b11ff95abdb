"""Stage ``evaluate@r``: one round's labels and network against the true masks, and its panels."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.agreement import measure_areas, score_agreement
from dsrg.labels import list_present
from dsrg.metrics import count_pixels
from dsrg.panels import choose_rows, draw_panel, overlay_cam, stack_panels, write_png
from dsrg.ranking import rank_rows
from dsrg.scaling import scale_maps
from dsrg.scoring import summarise_labels
from dsrg.store import Index, LabelStore, ScoreStore, count_cells
from tasks import console, study
from tasks.params import Params
from tasks.pictures import begin_with_images, open_images
from tasks.prediction import PictureScore, draw_val, predict_rows, score_pictures, summarise_val
from tasks.shards import map_shards
from tasks.tiles import INDEX, Column, list_colours, write_tiles
from tasks.workspace import StageWork, Workspace

_ROWS_PER_JOB = 64
_UNSCORED = 100  # val pictures that are ranked where there is no truth, for which alone they are predicted
_RANKED, _STEPS = 6, 3  # at most: pictures of each rank; train pictures whose every step is a tile
_NAMES = {"cues": "cue", "seeds": "seed", "pseudo_labels": "pseudo_label"}
_STAGES = {"cues": "cues", "seeds": "relabel@{}", "pseudo_labels": "refine@{}"}


@dataclass(frozen=True)
class Inputs:
    """Where one round's stores lie."""

    round_key: str
    images: Path
    truth: Path
    cams: Path
    cues: Path
    seeds: Path
    pseudo_labels: Path
    segmenter: Path

    @classmethod
    def locate(cls, workspace: Workspace, round_key: str) -> Inputs:
        """Find the stores of a round in a workspace."""
        here = f"data/rounds/{round_key}"
        return cls(
            round_key=round_key,
            images=workspace.path("data/images.zarr"),
            truth=workspace.path("data/truth.zarr"),
            cams=workspace.path("data/cams.zarr"),
            cues=workspace.path("data/cues.zarr"),
            seeds=workspace.path(f"{here}/seeds.zarr"),
            pseudo_labels=workspace.path(f"{here}/pseudo_labels.zarr"),
            segmenter=workspace.path(f"{here}/segmenter.safetensors"),
        )

    def open_labels(self, kind: str) -> LabelStore:
        """Open cues, seeds or pseudo_labels."""
        return LabelStore(getattr(self, kind), _NAMES[kind], stage=_STAGES[kind].format(self.round_key))

    @cached_property
    def log_odds(self) -> float:
        """Of the segmenter's spec."""
        from dsrg.models import load_segmenter_spec

        return load_segmenter_spec(self.segmenter).log_odds

    def show(self, work: StageWork, params: Params, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read what the segmenter drew of a val picture, as it is and with the CRF: both (H, W) uint8."""
        return draw_val(work, params, images=self.images, row=row, log_odds=self.log_odds)

    def open_truth(self) -> LabelStore:
        """Open the true masks."""
        return LabelStore(self.truth, "gt_label", stage="ingest")


@dataclass(frozen=True)
class CountJob:
    """Some train pictures whose labels are counted: all that a worker needs."""

    inputs: Inputs
    rows: tuple[int, ...]


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Score cues, seeds and pseudo-labels on train and the segmenter on val; draw panels.

    Reads: ``data/images.zarr``, ``data/truth.zarr``, ``data/cams.zarr``, ``data/cues.zarr``,
    ``data/rounds/R/segmenter.safetensors``, ``data/rounds/R/seeds.zarr``,
    ``data/rounds/R/pseudo_labels.zarr``

    Writes: ``metrics/rounds/R/evaluate.json``, ``data/rounds/R/panels/*.png``,
    ``data/rounds/R/panels/tiles/*.webp``, ``data/rounds/R/panels/pictures.json``
    """
    from dsrg.models import read_model_digest

    assert round_key is not None
    inputs = Inputs.locate(workspace, round_key)
    images = begin_with_images(inputs.images)
    truth = inputs.open_truth()
    fingerprint = {
        "evaluate": params.evaluate.model_dump(),
        "panels": params.report.panels,
        "images": images.digest,
        "truth": truth.attributes["digest"],
        "segmenter": read_model_digest(inputs.segmenter),
        "labels": {kind: inputs.open_labels(kind).attributes["digest"] for kind in _NAMES},
    }
    name = f"evaluate@{round_key}"
    with workspace.stage(name, fingerprint=fingerprint) as work:
        available = bool(truth.attributes["available"])
        summary: dict[str, Any] = {"available": available}
        index = images.index
        rows = [int(row) for row in index.rows("val")]
        if not available:
            rows = choose_rows(
                rows, index.ids, index.image_labels, count=_UNSCORED if params.report.panels else 0
            )
        scores = score_pictures(
            inputs.segmenter,
            params,
            work,
            images=inputs.images,
            truth=inputs.truth if available else None,
            rows=rows,
            log_odds=inputs.log_odds,
            description=name,
        )
        summary["image_labels"] = score_image_labels(inputs, params, work, rows)
        if available:
            summary["train"] = score_train(inputs, params)
            summary["val"] = summarise_val(scores, index.classes)
        folder = draw_panels(inputs, params, work, available=available)
        steps = write_steps(inputs, params, work, folder, available=available)
        ranked = write_ranked(inputs, params, work, folder, scores.pictures, available=available)
        workspace.write_json(
            folder / INDEX, {**ranked, "steps": steps, "colours": list_colours(index.classes)}
        )
        workspace.write_json(f"metrics/rounds/{round_key}/evaluate.json", summary)
        folder = work.publish("panels", f"data/rounds/{round_key}/panels")
    study.log_round(params, workspace, round_key)
    _show(summary, round_key)
    console.say(f"panels: {folder.relative_to(workspace.root)}")


def score_image_labels(inputs: Inputs, params: Params, work: StageWork, rows: list[int]) -> dict[str, Any]:
    """Score predicted val pictures by their image-level labels, which needs no truth.

    Returns
    -------
    dict
        ``images``: how many; ``raw`` and ``crf``, each as of `dsrg.agreement.score_agreement`.
    """
    index = open_images(inputs.images).index
    areas = np.zeros((2, len(rows), index.num_classes))
    for number, row in enumerate(rows):
        for kind, label_map in enumerate(inputs.show(work, params, row)):
            areas[kind, number] = measure_areas(label_map, num_classes=index.num_classes)
    image_labels = index.image_labels[rows].reshape(len(rows), -1)
    raw, refined = (score_agreement(part, image_labels) for part in areas)
    return {"images": len(rows), "raw": raw, "crf": refined}


def score_train(inputs: Inputs, params: Params) -> dict[str, Any]:
    """Score cues, seeds and pseudo-labels of the train split."""
    index = open_images(inputs.images).index
    rows = [int(row) for row in index.rows("train")]
    jobs = [
        CountJob(inputs, tuple(rows[start : start + _ROWS_PER_JOB]))
        for start in range(0, len(rows), _ROWS_PER_JOB)
    ]
    counts = np.zeros((len(_NAMES), index.num_classes, index.num_classes + 1), np.int64)
    # Reading and counting takes about 2 ms a picture: processes pay from some thousands on.
    light = len(rows) <= 2000
    description = f"evaluate@{inputs.round_key} labels"
    for part in map_shards(count_rows, jobs, compute=params.compute, description=description, light=light):
        counts += part
    return {kind: summarise_labels(counts[number], index.classes) for number, kind in enumerate(_NAMES)}


def count_rows(job: CountJob) -> NDArray[np.int64]:
    """Count the labels of one job's pictures: (3, C, C + 1) int64 for cues, seeds, pseudo-labels."""
    index = open_images(job.inputs.images).index
    truth = job.inputs.open_truth()
    counts = np.zeros((len(_NAMES), index.num_classes, index.num_classes + 1), np.int64)
    stores = [job.inputs.open_labels(kind) for kind in _NAMES]
    for row in job.rows:
        size = index.sizes[row]
        gt_label = truth.read(row, size)
        for number, store in enumerate(stores):
            counts[number] += count_pixels(gt_label, store.read(row, size), num_classes=index.num_classes)
    return counts


def draw_panels(inputs: Inputs, params: Params, work: StageWork, *, available: bool) -> Path:
    """Draw the chosen pictures of both splits, one PNG each and one sheet per split; return their folder.

    Files begin with a key that is the same in every round: ``train-00``.
    """
    folder = work.partial("panels")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    index = open_images(inputs.images).index
    for split in ("train", "val"):
        rows = _choose_rows(index, params, split)
        if split == "val":
            description = f"evaluate@{inputs.round_key} panels"
            predict_rows(
                inputs.segmenter, params, work, images=inputs.images, rows=rows, description=description
            )
        panels = []
        for number, row in enumerate(rows):
            columns = [
                (column.title, column.shown)
                for column in _list_columns(inputs, params, work, row, split=split, available=available)
            ]
            about: dict[str, Any] = {
                "caption": _caption(index, row),
                "legend": _legend(index, row, split),
            }
            key = f"{split}-{number:02d}"
            # on its own nearly square, which is how MLflow's image grid shows it
            single = draw_panel(columns, per_line=math.ceil(len(columns) ** 0.5), **about)
            write_png(folder / f"{key}-{_file_name(str(index.ids[row]))}.png", single)
            panels.append(draw_panel(columns, **about))
        if panels:
            write_png(folder / f"{split}.png", stack_panels(panels))
    return folder


def write_steps(
    inputs: Inputs, params: Params, work: StageWork, folder: Path, *, available: bool
) -> list[dict[str, Any]]:
    """Write the tiles of a few train pictures, from CAM to pseudo-label; describe them."""
    index = open_images(inputs.images).index
    steps = []
    for number, row in enumerate(_choose_rows(index, params, "train")[:_STEPS]):
        columns = _list_columns(inputs, params, work, row, split="train", available=available)
        tiles = write_tiles(folder, f"steps-{number}", columns, index.classes)
        steps.append({**_describe(index, row), "tiles": tiles})
    return steps


def write_ranked(
    inputs: Inputs,
    params: Params,
    work: StageWork,
    folder: Path,
    scores: list[PictureScore],
    *,
    available: bool,
) -> dict[str, Any]:
    """Write the tiles of the best, median and worst val pictures; describe them and score all.

    Ranked by IoU, or by how many pixels the CRF changes where there is no truth.

    Returns
    -------
    dict
        ``measure``: ``iou`` or ``disagreement``; ``pictures``: id and scores of all; ``ranked``: tiles.
    """
    index = open_images(inputs.images).index
    measure = "iou" if available else "disagreement"
    by_row = {score.row: score for score in scores}
    groups = rank_rows(
        {row: getattr(score, measure) for row, score in by_row.items()},
        count=min(_RANKED, math.ceil(params.report.panels / 3)),
        high_is_good=available,
    )
    ranked: dict[str, Any] = {}
    for group, rows in groups.items():
        ranked[group] = []
        for number, row in enumerate(rows):
            columns = _list_columns(inputs, params, work, row, split="val", available=available)
            tiles = write_tiles(folder, f"{group}-{number}", columns, index.classes)
            about = _describe(index, row) | _list_scores(by_row[row])
            ranked[group].append({**about, "tiles": tiles})
    pictures = [{"id": str(index.ids[row]), **_list_scores(score)} for row, score in by_row.items()]
    return {"measure": measure, "pictures": pictures, "ranked": ranked}


def _list_scores(score: PictureScore) -> dict[str, float]:
    return {"iou": score.iou, "disagreement": score.disagreement}


def _describe(index: Index, row: int) -> dict[str, Any]:
    names = [name for name, held in zip(index.classes, index.image_labels[row], strict=True) if held]
    return {"id": str(index.ids[row]), "classes": names}


def _choose_rows(index: Index, params: Params, split: str) -> list[int]:
    return choose_rows(index.rows(split).tolist(), index.ids, index.image_labels, count=params.report.panels)


def _list_columns(
    inputs: Inputs, params: Params, work: StageWork, row: int, *, split: str, available: bool
) -> list[Column]:
    images = open_images(inputs.images)
    size = images.index.sizes[row]
    picture = images.read_image(row)
    columns = [Column("picture", picture)]
    if split == "val":
        raw, refined = inputs.show(work, params, row)
        columns += [Column.lay("network", picture, raw), Column.lay("network + CRF", picture, refined)]
    else:
        count = len(list_present(images.index.image_labels[row])) - 1
        store = ScoreStore(inputs.cams, "cam", stage="cams")
        cams = store.read(row, count, count_cells(size, int(store.attributes["stride"])))
        columns.append(Column("CAM", overlay_cam(picture, scale_maps(cams, size))))
        for kind, name in _NAMES.items():
            title = {"cue": "cues", "seed": "seeds", "pseudo_label": "pseudo-label"}[name]
            columns.append(Column.lay(title, picture, inputs.open_labels(kind).read(row, size)))
    if available:
        columns.append(Column.lay("truth", picture, inputs.open_truth().read(row, size)))
    return columns


def _caption(index: Index, row: int) -> str:
    names = [name for name, held in zip(index.classes, index.image_labels[row], strict=True) if held]
    return f"{index.ids[row]} · {', '.join(names) or 'no class'}"


def _legend(index: Index, row: int, split: str) -> list[tuple[str, int]]:
    """List the picture's own classes; on val, where any class may be predicted, all up to 20."""
    if split == "val" and len(index.classes) <= 20:
        return [(name, k + 1) for k, name in enumerate(index.classes)]
    return [
        (index.classes[class_id - 1], int(class_id)) for class_id in list_present(index.image_labels[row])[1:]
    ]


def _file_name(picture_id: str) -> str:
    return re.sub(r"[^\w.-]+", "_", picture_id)[:80]


def _show(summary: dict[str, Any], round_key: str) -> None:
    if not summary["available"]:
        console.say("no true masks: nothing to score; panels only")
        return
    rows = []
    for kind, found in summary["train"].items():
        for policy, key in (("background", "unlabelled_as_background"), ("excluded", "unlabelled_excluded")):
            rows.append(
                (f"train {kind.replace('_', '-')}, unlabelled {policy}", _percent(found[key]["miou"]))
            )
        for group in ("foreground", "background"):
            quality = found[group]
            rows.append(
                (
                    f"  {group} precision / recall",
                    f"{_percent(quality['precision'])} / {_percent(quality['recall'])}",
                )
            )
    rows.append(("val, network", _percent(summary["val"]["raw"]["miou"])))
    rows.append(("val, network + CRF", _percent(summary["val"]["crf"]["miou"])))
    console.print_table(f"round {round_key}: mIoU", ("", "%"), rows)


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"
