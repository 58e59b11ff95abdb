"""Training inside a stage: counts, progress, the curve, MLflow. Shared by all stages that train."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dsrg.labels import BACKGROUND, IGNORE_INDEX
from dsrg.losses import measure_log_odds
from dsrg.models import SegmenterSpec, load_classifier, load_segmenter, save_model
from dsrg.models.segmenter import Segmenter
from dsrg.samples import SegmenterSamples
from dsrg.store import ImageStore, LabelStore
from dsrg.training import Progress, build_optimizer, fit
from tasks import console, meeting
from tasks.cores import count_workers
from tasks.params import Params
from tasks.workspace import StageWork

_SMOOTHING = 20


def count_loaders(params: Params) -> int:
    """Choose loader processes: one where there are cores to share, up to four beside a GPU."""
    cores = count_workers(params.compute.workers)
    if torch.cuda.is_available() and params.compute.device != "cpu":
        return min(8, max(1, cores - 1))
    return 1 if cores > 1 else 0


def seed_weights(random_seed: int) -> None:
    """Make the initial weights of new layers repeat."""
    torch.manual_seed(random_seed)


class StepRecord:
    """Losses of every step: to the screen, to MLflow, and thinned out for the metrics file.

    Steps are kept in the file `path`, so that a run that was killed and continued has them all.
    """

    def __init__(self, description: str, report: console.Report, tracker: Any, path: Path) -> None:
        self._description = description
        self._report = report
        self._tracker = tracker
        self._seen: list[Progress] = []
        self._curve: dict[int, dict[str, float]] = {}
        kept = path.read_text().splitlines(keepends=True) if path.is_file() else []
        kept = [line for line in kept if line.endswith("\n")]  # a killed run may leave half a line
        for line in kept:
            losses: dict[str, float] = json.loads(line)
            self._curve[int(losses.pop("step"))] = losses
        self._file = path.open("w", encoding="utf-8")
        self._file.writelines(kept)
        self._file.flush()

    def add(self, progress: Progress) -> None:
        """Take note of one step."""
        if not self._seen and progress.step > 1:
            console.say(
                f"{self._description}: goes on after step {progress.step - 1} of {progress.steps}, "
                "where it was stopped"
            )
        self._seen.append(progress)
        self._curve[progress.step] = progress.losses
        self._file.write(json.dumps({"step": progress.step, **progress.losses}) + "\n")
        self._file.flush()
        recent = self._seen[-_SMOOTHING:]
        mean = {name: float(np.mean([step.losses[name] for step in recent])) for name in progress.losses}
        speed = float(np.mean([step.images_per_second for step in recent]))
        self._report(
            progress.step, progress.steps, loss=mean["loss"], lr=progress.lr, **{"images/s": round(speed, 1)}
        )
        self._tracker.log_metrics(
            {
                **{f"train/{name}": value for name, value in progress.losses.items()},
                "train/lr": progress.lr,
                "train/images_per_second": progress.images_per_second,
            },
            step=progress.step,
        )

    def begin_anew(self, why: str) -> None:
        """Tell that a checkpoint could not be read."""
        console.say(f"{self._description}: begins anew, {why}")

    def thin(self, points: int) -> list[dict[str, float]]:
        """Average the curve into at most so many points: step and losses."""
        if not self._curve:
            return []
        steps = sorted(self._curve)
        names = self._curve[steps[0]]
        return [
            {
                "step": int(part[-1]),
                **{name: float(np.mean([self._curve[int(step)][name] for step in part])) for name in names},
            }
            for part in np.array_split(steps, min(points, len(steps)))
        ]

    def describe_speed(self) -> str:
        """Describe the median speed of the steps that this process did."""
        if not self._seen:
            return "was trained before it was stopped"
        speed = float(np.median([step.images_per_second for step in self._seen]))
        wait = float(np.median([step.data_wait for step in self._seen]))
        return f"{speed:.1f} images/s, {wait:.0%} of a step waiting for data"

    def close(self) -> None:
        """Close the file of losses; it stays for a run that continues this one."""
        self._file.close()


@contextlib.contextmanager
def record_steps(description: str, tracker: Any, work: StageWork) -> Iterator[StepRecord]:
    """Record the steps of one training under a progress bar."""
    with console.show_progress(description) as report:
        record = StepRecord(description, report, tracker, work.directory / "steps.jsonl")
        try:
            yield record
        finally:
            record.close()


def weigh_labels(labels: LabelStore, images: ImageStore, rows: NDArray[np.int64]) -> float:
    """Measure how much more common background is than foreground; see `dsrg.losses.measure_log_odds`."""
    shares = []
    for row in console.track(rows.tolist(), "weigh labels"):
        label_map = labels.read(row, images.index.sizes[row])
        background = np.count_nonzero(label_map == BACKGROUND)
        known = np.count_nonzero(label_map != IGNORE_INDEX)
        shares.append((background / label_map.size, (known - background) / label_map.size))
    return measure_log_odds(shares)


def describe_segmenter(params: Params, classes: tuple[str, ...], *, log_odds: float) -> SegmenterSpec:
    """Describe the segmenter that params ask for; `log_odds` is of what it is trained on."""
    settings = params.train
    return SegmenterSpec(
        backbone=params.backbone.name,
        classes=classes,
        output_stride=settings.output_stride,
        aspp_channels=settings.aspp_channels,
        aspp_rates=tuple(settings.aspp_rates),
        aspp_separable=settings.aspp_separable,
        dropout=settings.dropout,
        skip_channels=settings.skip_channels,
        input_size=settings.crop_size,
        log_odds=round(log_odds, 6),
    )


def build_segmenter_optimizer(segmenter: Segmenter, params: Params, *, lr: float) -> torch.optim.SGD:
    """Build the optimizer that params ask for; what is new on top of the trunk learns faster."""
    settings = params.train
    return build_optimizer(
        segmenter,
        [segmenter.aspp] + ([segmenter.skip] if segmenter.skip is not None else []),
        lr=lr,
        head_lr_multiplier=settings.head_lr_multiplier,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def fit_segmenter(
    segmenter: Segmenter,
    spec: SegmenterSpec,
    targets: LabelStore,
    loss: Any,
    params: Params,
    *,
    images: ImageStore,
    rows: NDArray[np.int64],
    steps: int,
    lr: float,
    work: StageWork,
    output: str,
    tracker: Any,
    description: str,
) -> StepRecord:
    """Train a segmenter on label maps and save it as the partial output `output` of `work`."""
    settings = params.train
    optimizer = build_segmenter_optimizer(segmenter, params, lr=lr)
    samples = SegmenterSamples(
        images.path,
        targets,
        rows,
        crop_size=settings.crop_size,
        min_scale=settings.min_scale,
        max_scale=settings.max_scale,
        random_seed=settings.random_seed,
    )
    checkpoint = work.directory / "last.ckpt"
    with (
        record_steps(description, tracker, work) as record,
        meeting.call_others(
            work.root, params, description, [images.path, targets.path, checkpoint]
        ) as others,
    ):
        fit(
            segmenter,
            optimizer,
            samples,
            loss,
            steps=steps,
            batch_size=settings.batch_size,
            poly_power=settings.poly_power,
            warmup_steps=steps // 20,
            clip_norm=settings.clip_norm,
            frozen_norms=segmenter.backbone,
            device=params.compute.device,
            devices=params.compute.devices,
            meeting=others,
            precision=params.compute.precision,
            loader_workers=count_loaders(params),
            random_seed=settings.random_seed,
            checkpoint=checkpoint,
            checkpoint_every=settings.checkpoint_every,
            on_step=record.add,
            on_damage=record.begin_anew,
            on_stuck=meeting.end_stuck,
        )
    save_model(work.partial(output), segmenter, spec, digest=work.digest)
    return record


def start_segmenter(spec: SegmenterSpec, *, init: str, file: Path, weights: str) -> Segmenter:
    """Build the segmenter with the weights it starts from.

    Parameters
    ----------
    spec : SegmenterSpec
    init : {"imagenet", "classifier", "previous"}
        The backbone's own weights; the trunk of the classifier in `file`; all of the segmenter in `file`.
    file : Path
    weights : str
        ``backbone.weights``, for ``imagenet``.
    """
    segmenter = spec.build(weights=weights if init == "imagenet" else "none")
    if init == "classifier":
        classifier, _ = load_classifier(file, output_stride=spec.output_stride)
        segmenter.backbone.stages.load_state_dict(classifier.backbone.stages.state_dict())
    elif init == "previous":
        segmenter.load_state_dict(load_segmenter(file)[0].state_dict())
    return segmenter
