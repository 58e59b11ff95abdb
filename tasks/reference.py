"""Stage ``reference``: the same network trained on the true masks, to compare with. Nothing uses it."""

from __future__ import annotations

import numpy as np

from dsrg.models import read_model_digest
from dsrg.objectives import LabelLoss
from dsrg.store import ImageStore, LabelStore
from tasks import console, tracking
from tasks.fitting import describe_segmenter, fit_segmenter, seed_weights, start_segmenter, weigh_labels
from tasks.params import Params
from tasks.pictures import begin_with_images
from tasks.prediction import score_val
from tasks.steps import count_reference_steps
from tasks.workspace import Workspace

OUTPUT = "data/reference/segmenter.safetensors"


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Train on truth for as many steps as all rounds together, by the loss of later rounds; score on val.

    Reads: ``data/images.zarr``, ``data/truth.zarr``, ``data/classifier.safetensors``.
    Writes: ``metrics/reference.json``; ``data/reference/segmenter.safetensors``, or the reason for none.
    """
    images_path, truth_path = workspace.path("data/images.zarr"), workspace.path("data/truth.zarr")
    images = begin_with_images(images_path)
    truth = LabelStore(truth_path, "gt_label", stage="ingest")
    rows = _list_masked(truth, images) if truth.attributes["available"] else np.empty(0, np.int64)
    if not params.reference.enabled or len(rows) == 0:
        why = "no training masks" if params.reference.enabled else "switched off (reference.enabled)"
        workspace.write_json("metrics/reference.json", {"available": False, "why": why})
        folder = workspace.path(OUTPUT).parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "why-empty.txt").write_text(f"{why}\n", encoding="utf-8")
        console.say(f"reference: nothing to train, {why}")
        return
    steps = count_reference_steps(params, len(images.index.rows("train")))
    initial = workspace.path("data/classifier.safetensors")
    fingerprint = {
        "initial": None if params.train.init == "imagenet" else read_model_digest(initial),
        "images": images.digest,
        "truth": truth.attributes["digest"],
        "backbone": params.backbone.model_dump(),
        "train": params.train.model_dump(exclude={"checkpoint_every"}),
        "balance": params.retrain.balance,
        "steps": steps,
        "evaluate": params.evaluate.model_dump(),
    }
    with workspace.stage("reference", fingerprint=fingerprint) as work:
        spec = describe_segmenter(params, images.index.classes, log_odds=weigh_labels(truth, images, rows))
        seed_weights(params.train.random_seed)
        segmenter = start_segmenter(
            spec, init=params.train.init, file=initial, weights=params.backbone.weights
        )
        with tracking.stage_run(workspace, params, "reference") as tracker:
            fit_segmenter(
                segmenter,
                spec,
                truth,
                LabelLoss(
                    balance=params.retrain.balance,
                    log_odds=params.train.logit_adjustment * spec.log_odds,
                    boundary_weight=0.0,
                    crf=params.train.crf.model_dump(),
                ),
                params,
                images=images,
                rows=rows,
                steps=steps,
                lr=params.train.lr,
                work=work,
                output="segmenter.safetensors",
                tracker=tracker,
                description="reference",
            )
            scores = score_val(
                work.partial("segmenter.safetensors"),
                params,
                work,
                images=images_path,
                truth=truth_path,
                log_odds=spec.log_odds,
                description="reference val",
            )
        scores = {"available": True, "steps": steps, **scores}
        workspace.write_json("metrics/reference.json", scores)
        work.publish("segmenter.safetensors", OUTPUT)


def _list_masked(truth: LabelStore, images: ImageStore) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    rows = images.index.rows("train")
    masked = [row for row in rows if (truth.read(row, images.index.sizes[row]) != 255).any()]
    return np.asarray(masked, np.int64)
