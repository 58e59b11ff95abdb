"""Time training against a plain loop: ``python -m bench.training``.

Later rounds' training (pseudo-labels, no region growing) as the stage does it, from Zarr stores, against what
one writes first: a folder of JPEGs and mask PNGs read by PIL in one loader process, the same network as timm
and PyTorch make it, and a bare loop. Both see the same samples in the same order, start from the same weights
and must have nearly the same losses. Each is a process of its own, and they take turns; the medians of steps
count. What a step waits for data is told of both. Writes ``bench/training.json``.

    python -m bench.training
    python -m bench.training --steps 40
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from bench.reading import build_params, draw_folder, ingest_silently, load_scaled
from bench.results import write_result
from dsrg.groups import finish_store, write_rows
from dsrg.models import Segmenter
from dsrg.objectives import LabelLoss
from dsrg.samples import SampleNumbers, SegmenterSamples
from dsrg.store import SHARD_LABEL_MAPS, ImageStore, LabelStore, create_label_store
from dsrg.training import Progress, choose_device, fit, freeze_batch_norm
from tasks.fitting import build_segmenter_optimizer, count_loaders, describe_segmenter
from tasks.memory import keep_freed_memory
from tasks.params import Params
from tasks.workspace import Workspace

PEERS = ("plain loop", "stage")
PICTURES = 64
ROUNDS = 3
CLOSE = 0.02  # of losses: folded norms and other summation orders


@dataclass
class Spent:
    """What steps took, in seconds, and their losses."""

    steps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return median(self.steps)

    @property
    def wait(self) -> float:
        return median(self.waits)


class Folder:
    """Pictures and masks of a folder, read by PIL, where samples expect stores."""

    def __init__(self, root: Path, store: ImageStore) -> None:
        self.root = root
        self.index = store.index
        self.canvas = store.canvas

    def read_image(self, row: int) -> NDArray[np.uint8]:
        return load_scaled(self.root / "images" / f"{self.index.ids[row]}.jpg", self.canvas)

    def read(self, row: int, size: Any) -> NDArray[np.uint8]:
        with Image.open(self.root / "labels" / f"{self.index.ids[row]}.png") as image:
            return np.array(image)


def draw_labels(folder: Path, images: ImageStore, path: Path) -> None:
    """Draw blocks of the picture's class, as PNGs and as a store."""
    create_label_store(path, "pseudo_label", count=len(images), canvas=images.canvas, attributes={})
    (folder / "labels").mkdir()
    rng = np.random.default_rng(0)
    block = np.full((len(images), images.canvas, images.canvas), 255, np.uint8)
    for row, (height, width) in enumerate(images.index.sizes.tolist()):
        own = 1 + int(images.index.image_labels[row].argmax())
        coarse = rng.choice(np.array([0, own], np.uint8), size=(-(-height // 40), -(-width // 40)))
        block[row, :height, :width] = np.kron(coarse, np.ones((40, 40), np.uint8))[:height, :width]
        Image.fromarray(block[row, :height, :width]).save(folder / "labels" / f"{images.index.ids[row]}.png")
    for start in range(0, len(block), SHARD_LABEL_MAPS):
        rows = slice(start, min(start + SHARD_LABEL_MAPS, len(block)))
        write_rows(path, "pseudo_label", rows, block[rows])
    finish_store(path, digest="bench")


def build(params: Params, classes: tuple[str, ...], *, folded: bool) -> Segmenter:
    """Build the segmenter; both have the same weights."""
    spec = describe_segmenter(params, classes, log_odds=0.0)
    torch.manual_seed(0)
    if folded:
        return spec.build(weights="imagenet")
    with (
        mock.patch("dsrg.models.folding.fold_norms"),
        mock.patch("dsrg.models.aspp.DepthwiseConv2d", torch.nn.Conv2d),
    ):
        return spec.build(weights="imagenet")


def train_by_stage(params: Params, samples: SegmenterSamples, loss: LabelLoss, *, steps: int) -> Spent:
    """Train as the stage does."""
    spent, settings = Spent(), params.train
    segmenter = build(params, samples.images.index.classes, folded=True)

    def note(progress: Progress) -> None:
        spent.steps.append(settings.batch_size / progress.images_per_second)
        spent.waits.append(progress.data_wait)
        spent.losses.append(progress.losses["loss"])

    fit(
        segmenter,
        build_segmenter_optimizer(segmenter, params, lr=params.retrain.lr),
        samples,
        loss,
        steps=steps,
        batch_size=settings.batch_size,
        poly_power=settings.poly_power,
        warmup_steps=0,
        clip_norm=settings.clip_norm,
        frozen_norms=segmenter.backbone,
        device=params.compute.device,
        precision=params.compute.precision,
        loader_workers=count_loaders(params),
        random_seed=settings.random_seed,
        checkpoint=None,
        checkpoint_every=steps,
        on_step=note,
    )
    return spent


def train_plainly(params: Params, samples: SegmenterSamples, loss: LabelLoss, *, steps: int) -> Spent:
    """Train by the loop that one writes first."""
    spent, settings = Spent(), params.train
    device = choose_device(params.compute.device)
    segmenter = build(params, samples.images.index.classes, folded=False).to(device)
    optimizer = build_segmenter_optimizer(segmenter, params, lr=params.retrain.lr)
    base = [group["lr"] for group in optimizer.param_groups]
    loader = DataLoader(
        samples,
        batch_size=settings.batch_size,
        sampler=SampleNumbers(0, steps * settings.batch_size),
        num_workers=1,
        multiprocessing_context="forkserver",
    )
    batches = iter(loader)
    segmenter.train()
    freeze_batch_norm(segmenter.backbone)
    for step in range(steps):
        began = time.perf_counter()
        batch = [tensor.to(device) for tensor in next(batches)]
        waited = time.perf_counter() - began
        torch.manual_seed(settings.random_seed * 1_000_003 + step)
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * (1 - step / steps) ** settings.poly_power
        value, _ = loss(segmenter, batch)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(segmenter.parameters(), settings.clip_norm)
        optimizer.step()
        spent.losses.append(value.item())
        spent.steps.append(time.perf_counter() - began)
        spent.waits.append(waited / spent.steps[-1])
    return spent


def train_once(peer: str, place: Path, *, steps: int) -> Spent:
    """Train by one of the peers on what `prepare` left there."""
    params = build_params(place / "photographs", workers=0)
    store = ImageStore(place / "project/data/images.zarr")
    settings: dict[str, Any] = {
        "crop_size": params.train.crop_size,
        "min_scale": params.train.min_scale,
        "max_scale": params.train.max_scale,
        "random_seed": params.train.random_seed,
    }
    targets = LabelStore(place / "labels.zarr", "pseudo_label", stage="refine@1")
    samples = SegmenterSamples(store.path, targets, store.index.rows("train"), **settings)
    loss = LabelLoss(balance=params.retrain.balance, log_odds=0.0, boundary_weight=0.0, crf={})
    if peer == "plain loop":
        samples.images = samples.targets = Folder(place / "photographs", store)  # type: ignore[assignment]
        return train_plainly(params, samples, loss, steps=steps)
    keep_freed_memory(of_any_size=True)  # as tasks.__main__ does
    return train_by_stage(params, samples, loss, steps=steps)


def prepare(place: Path) -> None:
    """Draw pictures and labels, as files and as stores."""
    folder, workspace = draw_folder(place / "photographs", PICTURES), Workspace(place / "project")
    ingest_silently(build_params(folder, workers=0), workspace)
    draw_labels(folder, ImageStore(workspace.path("data/images.zarr")), place / "labels.zarr")


def run_peer(peer: str, place: Path, *, steps: int) -> Spent:
    """Train by one of the peers in a process of its own, because how it treats memory is the process's."""
    command = [sys.executable, "-m", "bench.training", "--peer", peer, "--place", str(place)]
    done = subprocess.run([*command, "--steps", str(steps)], stdout=subprocess.PIPE, text=True, check=True)
    return Spent(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, print a table, write the numbers."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=16, help="of each peer in each of three turns")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(asdict(train_once(options.peer, options.place, steps=options.steps))))
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        turns = [
            {peer: run_peer(peer, Path(name), steps=options.steps) for peer in PEERS} for _ in range(ROUNDS)
        ]
    params = build_params(Path(), workers=0)
    apart = max(
        abs(a - b) for a, b in zip(turns[0]["plain loop"].losses, turns[0]["stage"].losses, strict=True)
    )
    if apart > CLOSE:
        raise SystemExit(f"losses differ by {apart:.4f}")
    seconds = {name: min(turn[name].seconds for turn in turns) for name in PEERS}
    waits = {name: median(turn[name].wait for turn in turns) for name in PEERS}
    batch = params.train.batch_size
    what = f"{params.backbone.name}, crop {params.train.crop_size}, batch {batch}"
    print(f"{what}; losses differ by at most {apart:.4f}")
    rows_out = [
        {
            "peer": name,
            "images_per_second": round(batch / value, 2),
            "times": round(seconds["plain loop"] / value, 2),
            "data_wait": round(waits[name], 4),
        }
        for name, value in seconds.items()
    ]
    for row in rows_out:
        print(
            f"{row['peer']:<11} {row['images_per_second']:>7.2f} images/s {row['times']:>6.2f} x   "
            f"{row['data_wait']:>6.1%} of a step waiting for data"
        )
    write_result(__file__, losses_differ=round(apart, 5), rows=rows_out)


if __name__ == "__main__":
    main()
