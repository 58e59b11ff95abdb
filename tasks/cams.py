"""Stage ``cams``: where the classifier looked, for each class that a training picture holds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.cam import CAM_STRIDE, choose_affinity_grid, choose_view_side, normalise_cams, spread_cams
from dsrg.inference import ActivationMaps, activate_and_describe, activate_views
from dsrg.models import load_classifier, read_model_digest
from tasks.inference import make_ready
from tasks.params import Params
from tasks.pictures import begin_with_images, open_images
from tasks.score_maps import Computer, fill_score_store
from tasks.workspace import Workspace


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Compute CAMs at several scales, mirrored too, and spread them over what looks alike.

    Reads: ``data/images.zarr``, ``data/classifier.safetensors``.
    Writes: ``data/cams.zarr``.
    """
    settings = params.cams
    images = begin_with_images(workspace.path("data/images.zarr"))
    index = images.index
    model_path = workspace.path("data/classifier.safetensors")
    rows = index.rows("train").tolist()
    fingerprint = {
        "images": images.digest,
        "classifier": read_model_digest(model_path),
        "cams": settings.model_dump(),
        "smallest": params.classify.crop_size,
    }
    with workspace.stage("cams", fingerprint=fingerprint, stores=params.compute.stores) as work:
        fill_score_store(
            partial(prepare_cams, params, images.path, model_path),
            images,
            rows,
            work=work,
            store="cams.zarr",
            array="cam",
            planes=max(1, int(index.image_labels.sum(axis=1).max())),
            compute=params.compute,
            attributes={"normalisation": settings.normalisation},
            description="cams",
        )
        work.publish("cams.zarr", "data/cams.zarr")


def prepare_cams(params: Params, images: Path, model: Path) -> Computer:
    """Prepare a classifier to compute the CAMs of the pictures of a store."""
    settings = params.cams
    index = open_images(images).index
    classifier, _ = load_classifier(model, output_stride=settings.output_stride)
    network = ActivationMaps(classifier, features=settings.affinity_power > 0)
    ready = make_ready(network, params.compute, pictures=len(index.rows("train")))

    def compute(rows: list[int], pictures: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        size = pictures.shape[1:3]
        side = choose_view_side(size, smallest=params.classify.crop_size, largest=settings.size)
        views: dict[str, Any] = {
            "long_side": side,
            "scales": settings.scales,
            "flip": settings.flip,
            "stride": CAM_STRIDE,
            "device": ready.device,
        }

        def normalise(activations: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            pairs = zip(rows, activations, strict=True)
            return [normalise_cams(maps, index.image_labels[row]) for row, maps in pairs]

        power = settings.affinity_power
        if power == 0:
            return normalise(activate_views(ready.forward, pictures, **views))
        cells = choose_affinity_grid(size)
        activations, shallow, deep = activate_and_describe(ready.forward, pictures, cells=cells, **views)
        triples = zip(normalise(activations), shallow, deep, strict=True)
        return [spread_cams(cam, features, power=power) for cam, *features in triples]

    return Computer(compute, ready.batch_size, ready.streams)
