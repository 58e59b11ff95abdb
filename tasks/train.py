"""Stage ``train@R``: train the segmenter, on growing cues in round 1 and on pseudo-labels later."""

from __future__ import annotations

from typing import Any

from dsrg.models import read_model_digest
from dsrg.objectives import LabelLoss, SeedingLoss
from dsrg.store import ImageStore, LabelStore
from tasks import console, tracking
from tasks.fitting import (
    describe_segmenter,
    fit_segmenter,
    seed_weights,
    start_segmenter,
    weigh_labels,
)
from tasks.params import Params
from tasks.steps import count_train_steps
from tasks.workspace import Workspace


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Train the segmenter of one round.

    Round 1 grows the cues in every step by what the network sees, and learns by the balanced seed
    loss and the boundary loss. Later rounds learn from the labels of the round before, starting from
    its weights or from ImageNet.

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
    rows = images.index.rows("train")
    with workspace.stage(name, fingerprint=fingerprint) as work:
        log_odds = weigh_labels(targets, images, rows)
        spec = describe_segmenter(params, images.index.classes, log_odds=log_odds)
        seed_weights(params.train.random_seed)
        segmenter = start_segmenter(spec, init=init, file=initial, weights=params.backbone.weights)
        with tracking.stage_run(workspace, params, name) as tracker:
            record = fit_segmenter(
                segmenter,
                spec,
                targets,
                _choose_loss(params, images.index.num_classes, log_odds, first=first),
                params,
                images=images,
                rows=rows,
                steps=count_train_steps(params, round_key, len(rows)),
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
    params: Params, num_classes: int, log_odds: float, *, first: bool
) -> SeedingLoss | LabelLoss:
    settings = params.train
    crf = settings.crf.model_dump()
    log_odds = settings.logit_adjustment * log_odds
    if not first:
        return LabelLoss(
            balance=params.retrain.balance,
            log_odds=log_odds,
            boundary_weight=params.retrain.boundary_weight,
            crf=crf,
        )
    return SeedingLoss(
        num_classes=num_classes,
        fg_threshold=settings.fg_threshold,
        bg_threshold=settings.bg_threshold,
        grow_on=settings.grow_on,
        log_odds=log_odds,
        boundary_weight=settings.boundary_weight,
        crf=crf,
    )
