"""Stage ``train@R``: train the segmenter, on growing cues in round 1 and on pseudo-labels later."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsrg.labels import BACKGROUND, IGNORE_INDEX
from dsrg.losses import measure_log_odds
from dsrg.models import read_model_digest
from dsrg.objectives import LabelLoss, SeedingLoss
from dsrg.store import ImageStore, LabelStore
from tasks import console, tracking
from tasks.fitting import describe_segmenter, fit_segmenter, seed_weights, start_segmenter
from tasks.params import Params
from tasks.workspace import Workspace


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Train the segmenter of one round.

    Round 1 grows the cues in every step by what the network sees, and learns by the balanced seed
    loss and the boundary loss. Later rounds learn from the labels of the round before by
    cross-entropy, starting from its weights or from ImageNet.

    Reads: ``data/images.zarr``; ``data/cues.zarr`` or the previous ``pseudo_labels.zarr`` and
    ``segmenter.safetensors``.
    Writes: ``data/rounds/R/segmenter.safetensors``, ``metrics/rounds/R/train.json``.
    """
    assert round_key is not None
    this_round = params.rounds[round_key]
    first = this_round.schedule == "train"
    images = ImageStore(workspace.path("data/images.zarr"))
    if first:
        targets = LabelStore(workspace.path(this_round.labels), "cue", stage="cues")
    else:
        stage = f"refine@{this_round.prev}"
        targets = LabelStore(workspace.path(this_round.labels), "pseudo_label", stage=stage)
    init = params.train.init if first else params.retrain.init
    initial = workspace.path(this_round.weights)
    fingerprint: dict[str, Any] = {
        "images": images.digest,
        "targets": targets.attributes["digest"],
        "backbone": params.backbone.model_dump(),
        "train": params.train.model_dump(exclude={"checkpoint_every"}),
        "retrain": None if first else params.retrain.model_dump(),
        "initial": None if init == "imagenet" else read_model_digest(initial),
    }
    name = f"train@{round_key}"
    spec = describe_segmenter(params, images.index.classes)
    with workspace.stage(name, fingerprint=fingerprint) as work:
        seed_weights(params.train.random_seed)
        segmenter = start_segmenter(spec, init=init, file=initial, weights=params.backbone.weights)
        with tracking.stage_run(workspace, params, name) as tracker:
            record = fit_segmenter(
                segmenter,
                spec,
                targets,
                _choose_loss(params, targets, images, first=first),
                params,
                images=images,
                rows=images.index.rows("train"),
                epochs=params.train.epochs if first else params.retrain.epochs,
                lr=params.train.lr if first else params.retrain.lr,
                work=work,
                output="segmenter.safetensors",
                tracker=tracker,
                description=name,
            )
        workspace.write_json(f"metrics/rounds/{round_key}/train.json", {"loss": record.thin(100)})
        work.publish("segmenter.safetensors", f"data/rounds/{round_key}/segmenter.safetensors")
    console.say(f"{name}: {record.describe_speed()}")


def _choose_loss(
    params: Params, targets: LabelStore, images: ImageStore, *, first: bool
) -> SeedingLoss | LabelLoss:
    settings = params.train
    crf = settings.crf.model_dump()
    balanced = first or params.retrain.balance == "picture"
    adjustment = settings.logit_adjustment if balanced else 0.0
    log_odds = adjustment and adjustment * _weigh(targets, images)
    if not first:
        return LabelLoss(
            balance=params.retrain.balance,
            log_odds=log_odds,
            boundary_weight=params.retrain.boundary_weight,
            crf=crf,
        )
    return SeedingLoss(
        num_classes=images.index.num_classes,
        fg_threshold=settings.fg_threshold,
        bg_threshold=settings.bg_threshold,
        grow_on=settings.grow_on,
        log_odds=log_odds,
        boundary_weight=settings.boundary_weight,
        crf=crf,
    )


def _weigh(labels: LabelStore, images: ImageStore) -> float:
    """Measure how much more common background is than foreground, by the labels of all training pictures."""
    shares = []
    for row in console.track([int(row) for row in images.index.rows("train")], "weigh labels"):
        label_map = labels.read(row, images.index.sizes[row])
        background = np.count_nonzero(label_map == BACKGROUND)
        known = np.count_nonzero(label_map != IGNORE_INDEX)
        shares.append((background / label_map.size, (known - background) / label_map.size))
    return measure_log_odds(shares)
