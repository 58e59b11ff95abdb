"""Time the parts of a CPU training step of round 1: ``python -m bench.training_step``.

One step as params.yaml has it (backbone, crop, batch), on random pictures and cues of three present
classes; growing and the CRF are timed inside the step they belong to. The same step, with batch norms
that are not folded into convolutions, is timed in turn with it. Writes ``bench/training_step.json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import torch

import dsrg.objectives
from bench.results import write_result
from dsrg.models import Segmenter, SegmenterSpec
from dsrg.objectives import SeedingLoss
from dsrg.training import build_optimizer, freeze_batch_norm
from tasks.fitting import describe_segmenter
from tasks.memory import keep_freed_memory
from tasks.params import read_params

STEPS = 8
CLASSES = 21
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure, print a table, write the numbers."""
    keep_freed_memory(of_any_size=True)  # as tasks.__main__ does
    params = read_params(ROOT / "params.yaml")
    settings = params.train
    torch.manual_seed(0)
    classes = tuple(f"class{number}" for number in range(1, CLASSES))
    spec = describe_segmenter(params, classes, log_odds=0.0)
    folded = _build(spec)
    with mock.patch("dsrg.models.folding.fold_norms"):
        plain = _build(spec)
    loss = SeedingLoss(
        num_classes=CLASSES,
        fg_threshold=settings.fg_threshold,
        bg_threshold=settings.bg_threshold,
        grow_on=settings.grow_on,
        log_odds=1.0,
        boundary_weight=settings.boundary_weight,
        crf=settings.crf.model_dump(),
    )
    spent = dict.fromkeys(("step", "crf", "growing", "unfolded"), 0.0)
    dsrg.objectives.grow_seeds_batch = _clock(dsrg.objectives.grow_seeds_batch, spent, "growing")  # type: ignore[attr-defined]
    dsrg.objectives.refine_batch = _clock(dsrg.objectives.refine_batch, spent, "crf")  # type: ignore[attr-defined]
    batch = draw_batch(settings.batch_size, settings.crop_size)
    steps = [
        _clock(_prepare_step(folded, loss, batch), spent, "step"),
        _clock(_prepare_step(plain, loss, batch), spent, "unfolded"),
    ]
    for number in range(STEPS + 1):
        if number == 1:  # the first steps compile and allocate
            spent.update(dict.fromkeys(spent, 0.0))
        for step in steps:
            step()
    rows = {**spent, "crf": spent["crf"] / 2, "growing": spent["growing"] / 2}  # both networks do these
    print(f"{params.backbone.name}, crop {settings.crop_size}, batch {settings.batch_size}, {STEPS} steps")
    for name, seconds in rows.items():
        print(f"{name:<8} {1000 * seconds / STEPS:9.1f} ms  {seconds / rows['step']:7.2%}")
    parts = {name: {"ms": 1000 * s / STEPS, "share": s / rows["step"]} for name, s in rows.items()}
    write_result(__file__, parts=parts)


def _build(spec: SegmenterSpec) -> Segmenter:
    """Build a segmenter in training mode, the trunk's norms frozen as in training."""
    segmenter = spec.build(weights="none").train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    freeze_batch_norm(segmenter.backbone)
    return cast(Segmenter, segmenter)


def _prepare_step(segmenter: Segmenter, loss: SeedingLoss, batch: list[torch.Tensor]) -> Callable[[], None]:
    """Prepare a training step: forward, backward and the optimizer."""
    optimizer = build_optimizer(
        segmenter, [segmenter.aspp], lr=1e-4, head_lr_multiplier=10, momentum=0.9, weight_decay=1e-4
    )

    def step() -> None:
        value, _ = loss(segmenter, batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return step


def draw_batch(batch_size: int, side: int) -> list[torch.Tensor]:
    """Draw pictures with cues of three classes: images, cues, image labels and valid pixels."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((batch_size, 3, 8, 8), dtype=np.float32))
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    blocks = rng.choice(
        [0, 5, 12, 255], p=[0.3, 0.15, 0.15, 0.4], size=(batch_size, -(-side // 16), -(-side // 16))
    )
    cues = torch.from_numpy(np.kron(blocks, np.ones((16, 16), np.int64))[:, :side, :side])
    image_labels = torch.zeros(batch_size, CLASSES - 1, dtype=torch.bool)
    image_labels[:, [4, 11]] = True
    valid = torch.ones_like(cues, dtype=torch.bool)
    return [images.contiguous(memory_format=torch.channels_last), cues, image_labels, valid]


def _clock(function: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - began

    return timed


if __name__ == "__main__":
    main()
