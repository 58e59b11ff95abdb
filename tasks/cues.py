"""Stage ``cues``: the pixels whose class the CAMs let us trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.cues import choose_exponent, pick_by_agreement, pick_by_threshold, take_background
from dsrg.labels import BACKGROUND, IGNORE_INDEX, list_present
from dsrg.scaling import scale_maps
from dsrg.store import ImageStore, LabelStore, ScoreStore, count_cells
from tasks import console
from tasks.errors import UserError
from tasks.label_maps import fill_label_store
from tasks.params import Params
from tasks.pictures import begin_with_images, open_images
from tasks.prepared import once_per_work
from tasks.workspace import Workspace

_BINS = 256


@dataclass(frozen=True)
class CueLot:
    """A few pictures whose cues are to be picked."""

    images: Path
    cams: Path
    saliency: Path
    rows: tuple[int, ...]
    settings: dict[str, Any]


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Pick cues out of the CAMs of all training pictures.

    Reads: ``data/images.zarr``, ``data/cams.zarr``, ``data/saliency.zarr``.
    Writes: ``data/cues.zarr``, ``metrics/cues.json`` (how much is labelled; no truth is read).
    """
    images = begin_with_images(workspace.path("data/images.zarr"))
    cams = ScoreStore(workspace.path("data/cams.zarr"), "cam", stage="cams")
    saliency = LabelStore(workspace.path("data/saliency.zarr"), "saliency", stage="ingest")
    if params.cues.background == "saliency" and not saliency.attributes["available"]:
        raise UserError(
            "`data/saliency.zarr` holds no maps: put 8-bit PNGs named like the pictures into `saliency/` "
            "beside labels.csv, or set cues.background=cam"
        )
    index = images.index
    rows = index.rows("train").tolist()
    settings = params.cues.model_dump()
    fingerprint = {
        "images": images.digest,
        "cams": cams.attributes["digest"],
        "saliency": saliency.attributes["digest"],
        "cues": settings,
    }
    with workspace.stage("cues", fingerprint=fingerprint, stores=params.compute.stores) as work:
        if params.cues.rule == "agreement" and params.cues.exponent == 0:
            histogram = _count_cam_values(cams, images, rows)
            settings = {**settings, "exponent": round(choose_exponent(histogram), 3)}
            console.say(f"cues: exponent {settings['exponent']} by Otsu's rule on the CAMs")
        path = fill_label_store(
            pick_cues,
            lambda lot: CueLot(images.path, cams.path, saliency.path, lot, settings),
            work=work,
            store="cues.zarr",
            array="cue",
            rows=rows,
            count=len(index),
            canvas=images.canvas,
            attributes={"rule": params.cues.rule},
            compute=params.compute,
            in_threads=params.cues.crf.in_threads,
            description="cues",
        )
        shares = _summarise(LabelStore(path, "cue", stage="cues"), images, rows)
        workspace.write_json("metrics/cues.json", {**shares, "exponent": settings["exponent"]})
        work.publish("cues.zarr", "data/cues.zarr")
    console.say(
        f"cues: {shares['foreground']:.1%} of the pixels foreground, {shares['background']:.1%} background, "
        f"{shares['unlabelled']:.1%} unlabelled"
    )


def pick_cues(lot: CueLot) -> list[NDArray[np.uint8]]:
    """Pick the cues of a few pictures."""
    images = open_images(lot.images)
    cams, saliency = _open(lot.cams, lot.saliency)
    settings = dict(lot.settings)
    rule = settings.pop("rule")
    picked = []
    for row in lot.rows:
        image = images.read_image(row)
        present = list_present(images.index.image_labels[row])
        stride = int(cams.attributes["stride"])
        maps = cams.read(row, len(present) - 1, count_cells(image.shape[:2], stride))
        maps = scale_maps(maps, image.shape[:2])
        if rule == "threshold":
            cue = pick_by_threshold(
                maps,
                present,
                fg_threshold=settings["fg_threshold"],
                bg_threshold=settings["bg_threshold"],
            )
        else:
            cue = pick_by_agreement(
                maps,
                image,
                present,
                exponent=settings["exponent"],
                spread=settings["spread"],
                crf=settings["crf"],
            )
        if settings["background"] == "saliency":
            found = saliency.read(row, image.shape[:2])
            cue = take_background(cue, found, present, saliency_threshold=settings["saliency_threshold"])
        picked.append(cue)
    return picked


def _count_cam_values(cams: ScoreStore, images: ImageStore, rows: list[int]) -> NDArray[np.int64]:
    """Count the largest CAM value of every cell of every training picture that holds a class."""
    stride = int(cams.attributes["stride"])
    histogram = np.zeros(_BINS, np.int64)
    for row in rows:
        count = int(images.index.image_labels[row].sum())
        if count == 0:
            continue
        maps = cams.read(row, count, count_cells(images.index.sizes[row], stride))
        histogram += np.histogram(maps.max(axis=0), bins=_BINS, range=(0, 1))[0]
    return histogram


@once_per_work
def _open(cams: Path, saliency: Path) -> tuple[ScoreStore, LabelStore]:
    return ScoreStore(cams, "cam", stage="cams"), LabelStore(saliency, "saliency", stage="ingest")


def _summarise(cues: LabelStore, images: ImageStore, rows: list[int]) -> dict[str, float]:
    counts = np.zeros(3)
    for row in rows:
        cue = cues.read(row, images.index.sizes[row])
        unlabelled = int((cue == IGNORE_INDEX).sum())
        background = int((cue == BACKGROUND).sum())
        counts += [cue.size - unlabelled - background, background, unlabelled]
    shares = counts / max(counts.sum(), 1)
    return dict(zip(("foreground", "background", "unlabelled"), shares.tolist(), strict=True))
