"""Predicting and scoring the val split with a segmenter: shared by ``evaluate`` and ``reference``.

Pictures are predicted in this process, a few at a time, or by a cluster, and each prediction is kept on disk
until the stage ends; the CRF then runs over them in a pool, and what it made is kept as well, for the panels.
A killed run continues where it was.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsrg.metrics import count_pixels
from dsrg.ranking import measure_disagreement, score_picture
from dsrg.scoring import list_likely, refine_prediction, summarise_predictions
from dsrg.store import LabelStore
from tasks import console
from tasks.inference import make_ready
from tasks.params import Params
from tasks.pictures import open_images
from tasks.prepared import prepare_once
from tasks.schema import NO_CLUSTER
from tasks.shards import map_in_threads, map_shards
from tasks.workspace import StageWork

MIN_PEAK = 0.01
_ROWS_PER_JOB = 4


@dataclass(frozen=True)
class ScoreJob:
    """A few predicted pictures to refine and score: all that a worker needs.

    Attributes
    ----------
    images, predictions : Path
    truth : Path or None
        None where there is no truth.
    rows : tuple of int
    num_classes : int
        ``C``, background included.
    crf : dict
        Settings of `dsrg.crf.refine_probs`.
    """

    images: Path
    truth: Path | None
    predictions: Path
    rows: tuple[int, ...]
    num_classes: int
    crf: dict[str, Any]


@dataclass(frozen=True)
class PictureScore:
    """How one picture was predicted.

    Attributes
    ----------
    row : int
    iou : float
        Of the network with the CRF, see `dsrg.ranking.score_picture`; NaN where there is no truth.
    disagreement : float
        Share of the pixels whose class the CRF changes.
    """

    row: int
    iou: float
    disagreement: float


@dataclass
class Scores:
    """Counts of some pictures, (2, C, C + 1) int64 as predicted and with the CRF, and each one's score."""

    counts: NDArray[np.int64]
    pictures: list[PictureScore]


def score_val(
    segmenter: Path,
    params: Params,
    work: StageWork,
    *,
    images: Path,
    truth: Path,
    log_odds: float,
    description: str,
) -> dict[str, Any]:
    """Score a segmenter on the val split, as it is and with a CRF; see `score_pictures`, `summarise_val`."""
    index = open_images(images).index
    rows = [int(row) for row in index.rows("val")]
    scores = score_pictures(
        segmenter,
        params,
        work,
        images=images,
        truth=truth,
        rows=rows,
        log_odds=log_odds,
        description=description,
    )
    return summarise_val(scores, index.classes)


def score_pictures(
    segmenter: Path,
    params: Params,
    work: StageWork,
    *,
    images: Path,
    truth: Path | None,
    rows: list[int],
    log_odds: float,
    description: str,
) -> Scores:
    """Predict pictures and compare them with the truth, if there is one, and with what the CRF makes of them.

    Parameters
    ----------
    segmenter : Path
        Its file.
    params : Params
        ``evaluate`` (scales, flip, CRF) and ``compute``.
    work : StageWork
        Keeps predictions and finished pictures until the stage ends.
    images : Path
        ``images.zarr``.
    truth : Path or None
        The true masks; None leaves all counts at 0.
    rows : list of int
        Which pictures.
    log_odds : float
        Of the segmenter's spec.
    description : str
        Shown with the progress.
    """
    index = open_images(images).index
    predict_rows(segmenter, params, work, images=images, rows=rows, description=f"{description} predict")
    crf = describe_crf(params, log_odds)
    jobs = [
        ScoreJob(
            images=images,
            truth=truth,
            predictions=_folder(work),
            rows=tuple(rows[start : start + _ROWS_PER_JOB]),
            num_classes=index.num_classes,
            crf=crf,
        )
        for start in range(0, len(rows), _ROWS_PER_JOB)
    ]
    scores = Scores(np.zeros((2, index.num_classes, index.num_classes + 1), np.int64), [])
    for part in map_shards(
        score_rows,
        jobs,
        compute=params.compute,
        description=f"{description} crf",
        in_threads=params.evaluate.crf.in_threads,
    ):
        scores.counts += part.counts
        scores.pictures += part.pictures
    scores.pictures.sort(key=lambda picture: picture.row)
    return scores


def describe_crf(params: Params, log_odds: float) -> dict[str, Any]:
    """Describe the CRF after a segmenter, as keyword values of `dsrg.crf.refine_probs`.

    Parameters
    ----------
    params : Params
        ``evaluate``: the CRF, and how far it leans.
    log_odds : float
        Of the segmenter's spec.
    """
    offset = round(params.evaluate.crf_adjustment * log_odds, 6)
    return {**params.evaluate.crf.model_dump(), "foreground_offset": offset}


def summarise_val(scores: Scores, classes: tuple[str, ...]) -> dict[str, Any]:
    """Summarise scores of the val split.

    Returns
    -------
    dict
        ``raw`` and ``crf``, each as of `dsrg.scoring.summarise_predictions`; ``images``: how many.
    """
    return {
        "images": len(scores.pictures),
        "raw": summarise_predictions(scores.counts[0], classes),
        "crf": summarise_predictions(scores.counts[1], classes),
    }


def predict_rows(
    segmenter: Path, params: Params, work: StageWork, *, images: Path, rows: list[int], description: str
) -> None:
    """Predict pictures and keep each one's labels and likely classes on disk; finished ones are left."""
    folder = _folder(work)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [row for row in rows if not _file(folder, row).exists()]
    if not missing:
        return
    prepare = partial(prepare_predictor, segmenter, params, images, folder, pictures=len(rows))
    if params.compute.cluster == NO_CLUSTER:
        predictor = prepare()
        done = map_in_threads(predictor.predict, missing, predictor.threads)
        for _ in console.track(done, description, total=len(missing)):
            pass
        return
    groups = [missing[start : start + _ROWS_PER_JOB] for start in range(0, len(missing), _ROWS_PER_JOB)]
    predict = partial(_predict_elsewhere, prepare)
    for _ in map_shards(predict, groups, compute=params.compute, description=description):
        pass


class Predictor(NamedTuple):
    """What predicts a picture, by its row, and keeps it on disk; so many threads may call it at a time."""

    predict: Callable[[int], None]
    threads: int


def prepare_predictor(
    segmenter: Path, params: Params, images: Path, folder: Path, *, pictures: int
) -> Predictor:
    """Prepare a segmenter to predict so many pictures of a store and keep the predictions in a folder."""
    from dsrg.inference import ProbabilityMaps, predict_probs
    from dsrg.models import load_segmenter

    store = open_images(images)
    network, _ = load_segmenter(segmenter)
    ready = make_ready(ProbabilityMaps(network), params.compute, pictures=pictures)

    def predict(row: int) -> None:
        probs = predict_probs(
            ready.forward,
            store.read_image(row),
            long_side=network.input_size,
            scales=params.evaluate.scales,
            flip=params.evaluate.flip,
            device=ready.device,
        )
        ids = list_likely(probs, min_peak=MIN_PEAK)
        _keep(
            _file(folder, row),
            ids=ids,
            probs=probs[ids].astype(np.float16),
            label=probs.argmax(axis=0).astype(np.uint8),
        )

    return Predictor(predict, ready.streams)


def _predict_elsewhere(prepare: Callable[[], Predictor], rows: list[int]) -> None:
    predictor = prepare_once("predictor", prepare)
    for row in rows:
        predictor.predict(row)


def read_prediction(
    folder: Path, row: int, image: NDArray[np.uint8], *, crf: dict[str, Any]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one picture's predicted label map and refine it, once: both (H, W) uint8."""
    with np.load(_file(folder, row)) as kept:
        label = kept["label"]
        refined = folder / f"{row}.refined.npz"
        if refined.exists():
            with np.load(refined) as done:
                return label, done["label"]
        refined_label = refine_prediction(kept["probs"].astype(np.float32), kept["ids"], image, crf=crf)
    _keep(refined, label=refined_label)
    return label, refined_label


def _keep(place: Path, **arrays: NDArray[Any]) -> None:
    # a name of its own: a worker that a cluster took for dead may be at the same picture as the next one
    begun = place.with_suffix(f".{uuid.uuid4().hex}.npz")
    np.savez(begun, **arrays)  # type: ignore[arg-type]
    os.replace(begun, place)


def score_rows(job: ScoreJob) -> Scores:
    """Refine, count and score the pictures of one job."""
    images = open_images(job.images)
    truth = LabelStore(job.truth, "gt_label", stage="ingest") if job.truth else None
    scores = Scores(np.zeros((2, job.num_classes, job.num_classes + 1), np.int64), [])
    for row in job.rows:
        label_maps = read_prediction(job.predictions, row, images.read_image(row), crf=job.crf)
        iou = float("nan")
        if truth is not None:
            gt_label = truth.read(row, images.index.sizes[row])
            counts = [count_pixels(gt_label, one, num_classes=job.num_classes) for one in label_maps]
            scores.counts += np.stack(counts)
            iou = score_picture(counts[1])
        scores.pictures.append(PictureScore(row, iou, measure_disagreement(*label_maps)))
    return scores


def draw_val(
    work: StageWork, params: Params, *, images: Path, row: int, log_odds: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read a predicted val picture's label maps for a panel, as predicted and with the CRF."""
    picture = open_images(images).read_image(row)
    return read_prediction(_folder(work), row, picture, crf=describe_crf(params, log_odds))


def _folder(work: StageWork) -> Path:
    return work.directory / "predictions"


def _file(folder: Path, row: int) -> Path:
    return folder / f"{row}.npz"
