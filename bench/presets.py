"""Time what each preset costs on this machine: ``python -m bench.presets``.

For each preset: training steps of the classifier and of the segmenter in round 1 (growing, CRF and
boundary loss inside) and in later rounds, CAMs and predictions at its scales, and the CRF of the labels
on one core; with random weights on random pictures, which cost the same as real ones. From these the
hours of a whole run on VOC 2012 are reckoned: 10,582 pictures to train on, 1,449 to score. What is left
out: reading the pictures, waiting for the loader, and what a GPU loses on pictures of ever new sizes.
Adds to ``bench/presets.json``, by device.

    python -m bench.presets                    # all presets
    python -m bench.presets demo quick --device cpu --steps 3
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from bench.training_step import CLASSES, draw_batch
from dsrg.cam import choose_view_side
from dsrg.classification import classification_loss
from dsrg.crf import refine_probs
from dsrg.engines import prepare_network
from dsrg.inference import ActivationMaps, ProbabilityMaps, activate_views, predict_probs
from dsrg.models import ClassifierSpec
from dsrg.objectives import LabelLoss, SeedingLoss
from dsrg.training import build_optimizer, choose_device, fit
from flows.params_file import edit_params
from tasks.doctor_places import name_processor
from tasks.fitting import describe_segmenter
from tasks.params import Params, read_params
from tasks.presets import list_presets

ROOT = Path(__file__).resolve().parent.parent
TRAIN, VAL = 10_582, 1_449
WARM_UP = 3
PICTURE = (375, 500)  # what most of VOC's pictures measure


class RandomSamples(Dataset[Any]):
    """Random pictures with random cues of three classes, made once."""

    def __init__(self, side: int, *, classifier: bool) -> None:
        picture, cues, held, valid = (part[0] for part in draw_batch(1, side))
        self.sample = (picture, held.float()) if classifier else (picture, cues, held, valid)

    def __getitem__(self, number: int) -> Any:
        return self.sample


@dataclass(frozen=True)
class Cost:
    """Seconds a step, and the largest memory of the device in GiB (0 on a CPU)."""

    seconds: float
    gib: float


def time_steps(
    model: torch.nn.Module, head: list[torch.nn.Module], loss: Any, samples: Any, batch: int, options: Any
) -> Cost:
    """Time training steps of `model`, the first ones not counted."""
    spent: list[float] = []
    cuda = choose_device(options.device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    fit(
        model,
        build_optimizer(model, head, lr=1e-6, head_lr_multiplier=10, momentum=0.9, weight_decay=1e-4),
        samples,
        loss,
        steps=options.steps + WARM_UP,
        batch_size=batch,
        poly_power=0.9,
        warmup_steps=0,
        clip_norm=5,
        frozen_norms=model.backbone,  # type: ignore[arg-type]
        device=options.device,
        precision=options.precision,
        loader_workers=0,
        random_seed=0,
        checkpoint=None,
        checkpoint_every=10_000,
        on_step=lambda step: spent.append(batch / step.images_per_second * (1 - step.data_wait)),
    )
    return Cost(float(np.median(spent[WARM_UP:])), torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0)


def time_pictures(compute: Callable[[], Any], count: int) -> float:
    """Time `compute` on one picture, seconds, after one that is not counted."""
    compute()
    began = time.perf_counter()
    for _ in range(count):
        compute()
    return (time.perf_counter() - began) / count


def measure(params: Params, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one preset: seconds a step and a picture, memory, and hours on VOC."""
    train, device = params.train, choose_device(options.device)
    names = tuple(f"class{number}" for number in range(1, CLASSES))
    classifier = ClassifierSpec(params.backbone.name, names).build(
        output_stride=params.classify.output_stride, weights="none"
    )
    small = RandomSamples(params.classify.crop_size, classifier=True)
    classify = time_steps(
        classifier, [classifier.head], classification_loss, small, params.classify.batch_size, options
    )
    segmenter = describe_segmenter(params, names, log_odds=0.0).build(weights="none")
    head = [segmenter.aspp] + ([segmenter.skip] if segmenter.skip is not None else [])
    crf = train.crf.model_dump()
    seeding = SeedingLoss(
        num_classes=CLASSES,
        fg_threshold=train.fg_threshold,
        bg_threshold=train.bg_threshold,
        grow_on=train.grow_on,
        log_odds=1.0,
        boundary_weight=train.boundary_weight,
        crf=crf,
    )
    large = RandomSamples(train.crop_size, classifier=False)
    first = time_steps(segmenter, head, seeding, large, train.batch_size, options)
    labels = LabelLoss(
        balance=params.retrain.balance,
        log_odds=1.0,
        boundary_weight=params.retrain.boundary_weight,
        crf=crf,
    )
    later = time_steps(segmenter, head, labels, large, train.batch_size, options)

    rng = np.random.default_rng(0)
    shrink = min(1.0, params.ingest.canvas / max(PICTURE))
    size = (round(PICTURE[0] * shrink), round(PICTURE[1] * shrink))
    noise = torch.from_numpy(rng.random((1, 3, 12, 16), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(noise, size=size, mode="bicubic")[0].clamp(0, 1)
    picture = np.ascontiguousarray((255 * smooth).byte().permute(1, 2, 0).numpy())
    cams, relabel, evaluate = params.cams, params.relabel, params.evaluate
    few = max(2, options.steps // 4)
    activate, predict = (
        prepare_network(network, device=device, engine="openvino").forward
        for network in (ActivationMaps(classifier), ProbabilityMaps(segmenter))
    )
    a_cam = time_pictures(
        lambda: activate_views(
            activate,
            picture[None],
            long_side=choose_view_side(size, smallest=params.classify.crop_size, largest=cams.size),
            scales=cams.scales,
            flip=cams.flip,
            stride=8,
            device=device,
        ),
        few,
    )
    a_label, a_prediction = (
        time_pictures(
            lambda views=views: predict_probs(  # type: ignore[misc]
                predict,
                picture,
                long_side=segmenter.input_size,
                scales=views.scales,
                flip=views.flip,
                device=device,
            ),
            few,
        )
        for views in (relabel, evaluate)
    )
    probs = rng.dirichlet(np.ones(3), size=size).transpose(2, 0, 1).astype(np.float32)
    a_crf = time_pictures(lambda: refine_probs(probs, picture, **params.refine.crf.model_dump()), few)

    rounds = len(params.rounds)
    cores = os.cpu_count() or 1
    crfs = TRAIN * ((2 if params.cues.rule == "agreement" else 0) + rounds) + VAL * rounds
    hours = {
        "classify": classify.seconds * params.classify.epochs * TRAIN / params.classify.batch_size,
        "train": first.seconds * train.epochs * TRAIN / train.batch_size,
        "retrain": later.seconds * params.retrain.epochs * TRAIN / train.batch_size * (rounds - 1),
        "cams": a_cam * TRAIN,
        "relabel": a_label * TRAIN * rounds,
        "evaluate": a_prediction * VAL * rounds,
        "crf": a_crf * crfs / cores,
    }
    return {
        "step_seconds": {
            "classify": classify.seconds,
            "train": first.seconds,
            "retrain": later.seconds,
        },
        "picture_seconds": {"cam": a_cam, "relabel": a_label, "evaluate": a_prediction, "crf": a_crf},
        "device_gib": max(cost.gib for cost in (classify, first, later)),
        "voc_hours": {name: seconds / 3600 for name, seconds in hours.items()},
        "voc_hours_in_all": sum(hours.values()) / 3600,
    }


def read_with_preset(name: str) -> Params:
    """Read the project's params with one preset written into a copy of them."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(ROOT / "params.yaml", place)
        shutil.copytree(ROOT / "presets", Path(place) / "presets")
        edit_params(Path(place), preset=name)
        return read_params(Path(place) / "params.yaml")


def main() -> None:
    """Measure, print a line for each preset, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("presets", nargs="*", help="which (default: all)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed", "16-mixed"))
    parser.add_argument("--steps", type=int, default=20, help="training steps that are timed")
    options = parser.parse_args()
    device = choose_device(options.device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else name_processor()
    place = f"{machine}, {os.cpu_count()} cores, {options.precision}"
    file = Path(__file__).with_suffix(".json")
    known = json.loads(file.read_text()) if file.exists() else {}
    print(place)
    for name in options.presets or list_presets(ROOT):
        found = measure(read_with_preset(name), options)
        known.setdefault(name, {})[place] = found
        file.write_text(json.dumps(known, indent=2) + "\n")
        steps = " ".join(f"{stage} {1000 * s:.0f}" for stage, s in found["step_seconds"].items())
        pictures = " ".join(f"{what} {1000 * s:.0f}" for what, s in found["picture_seconds"].items())
        print(
            f"{name:<16} step ms: {steps} | picture ms: {pictures} | {found['device_gib']:.1f} GiB | "
            f"VOC {found['voc_hours_in_all']:.1f} h",
            flush=True,
        )


if __name__ == "__main__":
    main()
