"""Stage ``refine@R``: seeds and probabilities to pseudo-labels, by a fully connected CRF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.cam import CAM_STRIDE
from dsrg.labels import list_present
from dsrg.relabelling import draw_pseudo_label
from dsrg.scaling import scale_maps
from dsrg.store import LabelStore, ScoreStore, count_cells
from tasks.label_maps import fill_label_store
from tasks.params import Params
from tasks.pictures import begin_with_images, open_images
from tasks.prepared import once_per_work
from tasks.workspace import Workspace


@dataclass(frozen=True)
class RefineLot:
    """A few pictures whose pseudo-labels are to be drawn."""

    images: Path
    seeds: Path
    probs: Path
    rows: tuple[int, ...]
    settings: dict[str, Any]


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Draw the pseudo-labels of all training pictures.

    Reads: ``data/images.zarr``, ``data/rounds/R/probs.zarr``, ``data/rounds/R/seeds.zarr``.
    Writes: ``data/rounds/R/pseudo_labels.zarr``.
    """
    folder = f"data/rounds/{round_key}"
    images = begin_with_images(workspace.path("data/images.zarr"))
    seeds, probs = _open_seeds(workspace.path(f"{folder}/seeds.zarr"), workspace.path(f"{folder}/probs.zarr"))
    settings = params.refine.model_dump()
    fingerprint = {
        "images": images.digest,
        "seeds": seeds.attributes["digest"],
        "probs": probs.attributes["digest"],
        "refine": settings,
    }
    name = f"refine@{round_key}"
    with workspace.stage(name, fingerprint=fingerprint, stores=params.compute.stores) as work:
        fill_label_store(
            draw_pseudo_labels,
            lambda lot: RefineLot(images.path, seeds.path, probs.path, lot, settings),
            work=work,
            store="pseudo_labels.zarr",
            array="pseudo_label",
            rows=images.index.rows("train").tolist(),
            count=len(images),
            canvas=images.canvas,
            attributes={},
            compute=params.compute,
            in_threads=params.refine.crf.in_threads,
            description=name,
        )
        work.publish("pseudo_labels.zarr", f"{folder}/pseudo_labels.zarr")


def draw_pseudo_labels(lot: RefineLot) -> list[NDArray[np.uint8]]:
    """Draw the pseudo-labels of a few pictures."""
    images = open_images(lot.images)
    seeds, probs = _open_seeds(lot.seeds, lot.probs)
    drawn = []
    for row in lot.rows:
        image = images.read_image(row)
        present = list_present(images.index.image_labels[row])
        maps = probs.read(row, len(present), count_cells(image.shape[:2], CAM_STRIDE))
        drawn.append(
            draw_pseudo_label(
                scale_maps(maps, image.shape[:2]),
                seeds.read(row, image.shape[:2]),
                image,
                present,
                **lot.settings,
            )
        )
    return drawn


@once_per_work
def _open_seeds(seeds: Path, probs: Path) -> tuple[LabelStore, ScoreStore]:
    return LabelStore(seeds, "seed", stage="relabel"), ScoreStore(probs, "probs", stage="relabel")
