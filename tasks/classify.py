"""Stage ``classify``: train the classifier whose attention becomes CAMs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dsrg.classification import classification_loss
from dsrg.inference import group_by_size, score_images
from dsrg.metrics import score_classifier
from dsrg.models import ClassifierSpec, save_model
from dsrg.models.classifier import Classifier
from dsrg.samples import ClassifierSamples
from dsrg.store import ImageStore
from dsrg.training import build_optimizer, choose_device, fit
from tasks import console, meeting, tracking
from tasks.errors import UserError
from tasks.fitting import count_loaders, record_steps, seed_weights
from tasks.params import Params
from tasks.steps import count_classify_steps
from tasks.workspace import Workspace

OUTPUT = "data/classifier.safetensors"
_BATCH = 16


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Train the classifier on image-level labels and score it on the val split.

    Reads: ``data/images.zarr``.
    Writes: ``data/classifier.safetensors``, ``metrics/classify.json``.
    """
    settings = params.classify
    images = ImageStore(workspace.path("data/images.zarr"))
    rows = images.index.rows("train")
    if not images.index.image_labels[rows].any():
        raise UserError("no training picture holds a class: give image labels to learn from (labels.csv)")
    spec = ClassifierSpec(params.backbone.name, images.index.classes)
    fingerprint = {
        "images": images.digest,
        "classify": settings.model_dump(),
        "backbone": params.backbone.model_dump(),
    }
    with workspace.stage("classify", fingerprint=fingerprint) as work:
        seed_weights(settings.random_seed)
        classifier = spec.build(output_stride=settings.output_stride, weights=params.backbone.weights)
        optimizer = build_optimizer(
            classifier,
            [classifier.head],
            lr=settings.lr,
            head_lr_multiplier=settings.head_lr_multiplier,
            momentum=0.9,
            weight_decay=settings.weight_decay,
        )
        samples = ClassifierSamples(
            images.path,
            rows,
            crop_size=settings.crop_size,
            min_scale=settings.min_scale,
            random_seed=settings.random_seed,
        )
        steps = count_classify_steps(params, len(rows))
        with tracking.stage_run(workspace, params, "classify") as tracker:
            checkpoint = work.directory / "last.ckpt"
            with (
                record_steps("classify", tracker, work) as record,
                meeting.call_others(work.root, params, "classify", [images.path, checkpoint]) as others,
            ):
                fit(
                    classifier,
                    optimizer,
                    samples,
                    classification_loss,
                    steps=steps,
                    batch_size=settings.batch_size,
                    poly_power=0.9,
                    warmup_steps=steps // 20,
                    clip_norm=settings.clip_norm,
                    frozen_norms=classifier.backbone,
                    device=params.compute.device,
                    devices=params.compute.devices,
                    meeting=others,
                    precision=params.compute.precision,
                    loader_workers=count_loaders(params),
                    random_seed=settings.random_seed,
                    checkpoint=checkpoint,
                    checkpoint_every=50,
                    on_step=record.add,
                    on_damage=record.begin_anew,
                    on_stuck=meeting.end_stuck,
                )
            save_model(work.partial("classifier.safetensors"), classifier, spec, digest=work.digest)
            scores = _score_val(classifier, images, params)
            tracker.log_metrics({f"classify/{name}": value for name, value in scores.items()}, step=steps)
        workspace.write_json(
            "metrics/classify.json", {"val": scores, "loss": record.thin(100), "steps": steps}
        )
        work.publish("classifier.safetensors", OUTPUT)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    console.say(f"classifier on {len(images.index.rows('val'))} val pictures: {shown}")


def _score_val(classifier: Classifier, images: ImageStore, params: Params) -> dict[str, float]:
    """Score on pictures at the size that training crops had on average."""
    index = images.index
    rows = index.rows("val")
    if len(rows) == 0:
        return {}
    device = choose_device(params.compute.device)
    scores: NDArray[np.float32] = np.zeros((len(index), len(index.classes)), np.float32)
    for batch in console.track(
        list(group_by_size(list(rows), index.sizes, batch_size=_BATCH)), "classify val"
    ):
        pixels = np.stack([images.read_image(row) for row in batch])
        scores[batch] = score_images(
            classifier, pixels, long_side=round(params.classify.crop_size * 1.15), device=device
        )
    with torch.inference_mode():
        return dict(score_classifier(scores[rows], index.image_labels[rows]))
