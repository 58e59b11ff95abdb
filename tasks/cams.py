"""Stage ``cams``: where the classifier looked, for each class that a training picture holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.cam import CAM_STRIDE, choose_affinity_grid, choose_view_side, normalise_cams, spread_cams
from dsrg.inference import ActivationMaps, activate_and_describe, activate_views
from dsrg.models import load_classifier, read_model_digest
from dsrg.store import ImageStore
from tasks.inference import make_ready
from tasks.params import Params
from tasks.score_maps import fill_score_store
from tasks.workspace import Workspace


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Compute CAMs at several scales, mirrored too, and spread them over what looks alike.

    Reads: ``data/images.zarr``, ``data/classifier.safetensors``.
    Writes: ``data/cams.zarr``.
    """
    settings = params.cams
    images = ImageStore(workspace.path("data/images.zarr"))
    index = images.index
    model_path = workspace.path("data/classifier.safetensors")
    classifier, _ = load_classifier(model_path, output_stride=settings.output_stride)
    rows = index.rows("train").tolist()
    network = ActivationMaps(classifier, features=settings.affinity_power > 0)
    ready = make_ready(network, params.compute, pictures=len(rows))
    smallest = params.classify.crop_size
    fingerprint = {
        "images": images.digest,
        "classifier": read_model_digest(model_path),
        "cams": settings.model_dump(),
        "smallest": smallest,
    }
    planes = max(1, int(index.image_labels.sum(axis=1).max()))

    def compute(rows: list[int], pictures: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        size = pictures.shape[1:3]
        views: dict[str, Any] = {
            "long_side": choose_view_side(size, smallest=smallest, largest=settings.size),
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

    with workspace.stage("cams", fingerprint=fingerprint) as work:
        fill_score_store(
            compute,
            images,
            rows,
            work=work,
            store="cams.zarr",
            array="cam",
            planes=planes,
            batch_size=ready.batch_size,
            threads=ready.streams,
            attributes={"normalisation": settings.normalisation},
            description="cams",
        )
        work.publish("cams.zarr", "data/cams.zarr")
