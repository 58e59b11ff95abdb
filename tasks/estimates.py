"""Rough time, disk and memory of a run with the current params, for ``dsrg check``.

How the constants were measured: the clock time of each stage of ``make demo`` (120 + 40 drawn pictures of
256 x 256, EfficientNet-Lite0) on two cores of a server CPU without AVX-512, less the start, over what the
work is made of (steps, views, area). One with AVX-512 took 0.6 times as long before. Trunks were compared
by one training step and one prediction at 224 x 224. Expect half to twice of what is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dsrg.store import SHARD_IMAGES, SHARD_LABEL_MAPS, Index
from tasks.cores import count_workers
from tasks.params import Params
from tasks.steps import count_classify_steps, count_reference_steps, count_train_steps

_REFERENCE_AREA = 256 * 256
# CPU seconds of one picture of that area: per pass (training), per view (prediction), or once.
_CLASSIFY, _TRAIN, _RETRAIN = 0.13, 0.19, 0.17
_CAMS, _PREDICT = 0.045, 0.03  # by OpenVINO, from the seconds of torch by how much faster it was elsewhere
_CUES, _REFINE, _SCORE, _BASELINE = 0.11, 0.05, 0.13, 0.35
_START = 3.0  # seconds before a stage's first picture
_BUSY = 0.85  # share of the cores that is at work
# How much longer the trunks take than EfficientNet-Lite0, to train and to predict.
_TRAINING = {"efficientnet_lite0": 1.0, "resnet50": 2.7, "resnet101": 4.3, "vgg16": 4.6}
_PREDICTING = {"efficientnet_lite0": 1.0, "resnet50": 4.9, "resnet101": 8.0, "vgg16": 8.2}
# Bytes: of a stored pixel (picture and CAMs; seeds, probabilities and pseudo-labels of a round), of a
# round's network and panels, of the classifier, of torch by itself, of a training step by pixel, of a worker.
_IMAGE_BYTES, _ROUND_BYTES, _ROUND_FIXED, _CLASSIFIER = 2.8, 0.5, 22e6, 13e6
_TORCH_BYTES, _STEP_BYTES, _WORKER_BYTES = 0.7e9, 2100, 150e6
_GB = 1e9


def estimate_run(params: Params, index: Index, *, ingest_seconds: float, has_masks: bool) -> dict[str, Any]:
    """Estimate what a run of the whole pipeline needs, on the CPU.

    Parameters
    ----------
    params : Params
    index : Index
        The pictures as ingest would store them.
    ingest_seconds : float
        How long decoding all of them took just now.
    has_masks : bool
        Whether anything can be scored.

    Returns
    -------
    dict
        ``cores``, ``seconds`` by stage (None where the trunk was never measured), ``disk_bytes``,
        ``memory_bytes``, and ``lines`` that say it in words.
    """
    cores = count_workers(params.compute.workers)
    seconds: dict[str, float] | None = None
    if params.backbone.name in _TRAINING:
        stages = dict(_list_stages(params, index, has_masks=has_masks))
        seconds = {name: _START + cpu / (cores * _BUSY) for name, cpu in stages.items()}
        seconds = {"ingest": _START + ingest_seconds, **seconds}
        seconds["total"] = sum(seconds.values())
    disk = _estimate_disk(params, index)
    memory = _estimate_memory(params, cores)
    lines = [
        f"time    ingest {_say_time(_START + ingest_seconds)}"
        + (
            f", the whole run {_say_time(seconds['total'])} on {cores} CPU cores; much less with a GPU"
            if seconds
            else f"; the rest was never measured with {params.backbone.name}"
        ),
        f"disk    {_say_bytes(disk)} of results, as much again in DVC's cache",
        f"memory  {_say_bytes(memory)}",
    ]
    return {
        "cores": cores,
        "seconds": seconds,
        "disk_bytes": disk,
        "memory_bytes": memory,
        "lines": lines,
    }


def _list_stages(params: Params, index: Index, *, has_masks: bool) -> Iterator[tuple[str, float]]:
    """List stages with the CPU seconds that their pictures cost."""
    train, val = len(index.rows("train")), len(index.rows("val"))
    area = float(np.prod(index.sizes, axis=1).mean()) / _REFERENCE_AREA
    training, predicting = _TRAINING[params.backbone.name], _PREDICTING[params.backbone.name]

    def scale_crop(side: int) -> float:
        return side**2 / _REFERENCE_AREA

    def count_views(scales: Sequence[float], flip: bool) -> float:
        return sum(scale**2 for scale in scales) * (2 if flip else 1)

    crop = scale_crop(params.classify.crop_size)
    classified = params.classify.batch_size * count_classify_steps(params, train)
    yield "classify", classified * crop * training * _CLASSIFY
    views = count_views(params.cams.scales, params.cams.flip) * min(area, scale_crop(params.cams.size))
    yield "cams", train * views * predicting * _CAMS
    yield "cues", train * area * _CUES
    yield "baseline", train * area * _BASELINE * has_masks
    crop = scale_crop(params.train.crop_size)
    for key in params.round_keys:
        seen = params.train.batch_size * count_train_steps(params, key, train)
        cost = _TRAIN if params.rounds[key].schedule == "train" else _RETRAIN
        yield f"train@{key}", seen * crop * training * cost
        views = count_views(params.relabel.scales, params.relabel.flip) * area
        yield f"relabel@{key}", train * views * predicting * _PREDICT
        yield f"refine@{key}", train * area * _REFINE
        views = count_views(params.evaluate.scales, params.evaluate.flip) * area
        yield (
            f"evaluate@{key}",
            (val * views * predicting * _PREDICT + (train + val) * area * _SCORE) * has_masks,
        )
    if params.reference.enabled and has_masks:
        seen = params.train.batch_size * count_reference_steps(params, train)
        yield "reference", seen * crop * training * _RETRAIN


def _estimate_disk(params: Params, index: Index) -> int:
    pixels = float(np.prod(index.sizes, axis=1).sum())
    rounds = len(params.rounds)
    return int(pixels * (_IMAGE_BYTES + rounds * _ROUND_BYTES) + rounds * _ROUND_FIXED + _CLASSIFIER)


def _estimate_memory(params: Params, cores: int) -> int:
    """Estimate the largest of: a training step, and all workers of ingest at once."""
    step = max(
        params.classify.batch_size * params.classify.crop_size**2,
        params.train.batch_size * params.train.crop_size**2,
    )
    shard = (SHARD_IMAGES * 3 + SHARD_LABEL_MAPS) * params.ingest.canvas**2
    return int(max(_TORCH_BYTES + step * _STEP_BYTES, cores * (_WORKER_BYTES + shard)))


def _say_time(seconds: float) -> str:
    """Say a duration in one figure.

    Examples
    --------
    >>> _say_time(40), _say_time(1500), _say_time(9000)
    ('under a minute', 'about 25 minutes', 'about 2.5 hours')
    """
    if seconds < 60:
        return "under a minute"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours" if seconds < 36000 else f"about {seconds / 3600:.0f} hours"


def _say_bytes(count: float) -> str:
    """Say a number of bytes in one figure.

    Examples
    --------
    >>> _say_bytes(85_000_000), _say_bytes(2_345_000_000)
    ('85 MB', '2.3 GB')
    """
    return f"{count / 1e6:.0f} MB" if count < _GB else f"{count / _GB:.1f} GB"
