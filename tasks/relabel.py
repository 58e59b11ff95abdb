"""Stage ``relabel@R``: grow the cues by what the round's segmenter sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.cam import CAM_STRIDE
from dsrg.growing import grow_label_map
from dsrg.inference import ProbabilityMaps, predict_batch
from dsrg.labels import list_present
from dsrg.models import load_segmenter, read_model_digest
from dsrg.relabelling import keep_present
from dsrg.scaling import scale_maps
from dsrg.store import LabelStore, ScoreStore, count_cells
from tasks.inference import make_ready
from tasks.label_maps import fill_label_store
from tasks.params import Params
from tasks.pictures import begin_with_images, open_images
from tasks.prepared import once_per_work
from tasks.score_maps import Computer, fill_score_store
from tasks.workspace import Workspace


@dataclass(frozen=True)
class GrowLot:
    """A few pictures whose cues are to be grown."""

    images: Path
    cues: Path
    probs: Path
    rows: tuple[int, ...]
    thresholds: dict[str, float]


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Predict all training pictures, keep their own classes, and grow the cues.

    Reads: ``data/images.zarr``, ``data/cues.zarr``, ``data/rounds/R/segmenter.safetensors``.
    Writes: ``data/rounds/R/probs.zarr``, ``data/rounds/R/seeds.zarr``.
    """
    images = begin_with_images(workspace.path("data/images.zarr"))
    cues = LabelStore(workspace.path("data/cues.zarr"), "cue", stage="cues")
    folder = f"data/rounds/{round_key}"
    model_path = workspace.path(f"{folder}/segmenter.safetensors")
    rows = images.index.rows("train").tolist()
    settings = params.relabel
    fingerprint = {
        "images": images.digest,
        "cues": cues.attributes["digest"],
        "segmenter": read_model_digest(model_path),
        "relabel": settings.model_dump(),
    }
    name = f"relabel@{round_key}"
    thresholds = {"fg_threshold": settings.fg_threshold, "bg_threshold": settings.bg_threshold}
    with workspace.stage(name, fingerprint=fingerprint, stores=params.compute.stores) as work:
        probs = fill_score_store(
            partial(prepare_probs, params, images.path, model_path),
            images,
            rows,
            work=work,
            store="probs.zarr",
            array="probs",
            planes=int(images.index.image_labels.sum(axis=1).max()) + 1,
            compute=params.compute,
            attributes={},
            description=f"{name} predict",
        )
        fill_label_store(
            grow_cues,
            lambda lot: GrowLot(images.path, cues.path, probs, lot, thresholds),
            work=work,
            store="seeds.zarr",
            array="seed",
            rows=rows,
            count=len(images),
            canvas=images.canvas,
            attributes={"grown_by": "probs"},
            compute=params.compute,
            light=True,
            description=f"{name} grow",
        )
        work.publish("probs.zarr", f"{folder}/probs.zarr")
        work.publish("seeds.zarr", f"{folder}/seeds.zarr")


def prepare_probs(params: Params, images: Path, model: Path) -> Computer:
    """Prepare a segmenter to compute the probabilities, of each picture's own classes, in a store."""
    index = open_images(images).index
    segmenter, _ = load_segmenter(model)
    ready = make_ready(ProbabilityMaps(segmenter), params.compute, pictures=len(index.rows("train")))

    def compute(rows: list[int], pictures: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        predicted = predict_batch(
            ready.forward,
            pictures,
            long_side=segmenter.input_size,
            scales=params.relabel.scales,
            flip=params.relabel.flip,
            cells=count_cells(pictures.shape[1:3], CAM_STRIDE),
            device=ready.device,
        )
        pairs = zip(rows, predicted, strict=True)
        return [keep_present(maps, list_present(index.image_labels[row])) for row, maps in pairs]

    return Computer(compute, ready.batch_size, ready.streams)


def grow_cues(lot: GrowLot) -> list[NDArray[np.uint8]]:
    """Grow the cues of a few pictures at picture size."""
    images = open_images(lot.images)
    cues, probs = _open(lot.cues, lot.probs)
    grown = []
    for row in lot.rows:
        size = images.index.sizes[row]
        present = list_present(images.index.image_labels[row])
        maps = probs.read(row, len(present), count_cells(size, CAM_STRIDE))
        maps = scale_maps(maps, size)
        grown.append(grow_label_map(cues.read(row, size), maps, present, **lot.thresholds))
    return grown


@once_per_work
def _open(cues: Path, probs: Path) -> tuple[LabelStore, ScoreStore]:
    return LabelStore(cues, "cue", stage="cues"), ScoreStore(probs, "probs", stage="relabel")
