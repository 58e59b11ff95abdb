"""Stores and networks small enough for a unit test."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dsrg.groups import finish_store
from dsrg.models import Segmenter, SegmenterSpec, save_model
from dsrg.models.backbones import Backbone
from dsrg.store import Index, LabelStore, create_image_store, create_label_store

CRF: dict[str, Any] = {
    "iterations": 3,
    "bilateral_weight": 4.0,
    "bilateral_xy": 10.0,
    "bilateral_rgb": 13.0,
    "gaussian_weight": 1.0,
    "gaussian_xy": 1.0,
}


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch have so many threads, and as many as before after that."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_images(
    path: Path, pictures: Sequence[NDArray[np.uint8]], image_labels: Sequence[Sequence[int]], *, canvas: int
) -> Path:
    """Write ``images.zarr`` of training pictures with the given rows of 0 and 1 as image labels."""
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    labels = np.array(image_labels, bool)
    index = Index(
        classes=tuple(f"class {k}" for k in range(labels.shape[1])),
        ids=np.array([f"picture {row:03d}" for row in range(len(pictures))]),
        splits=np.full(len(pictures), "train"),
        sizes=sizes,
        original_sizes=sizes,
        image_labels=labels,
    )
    group = create_image_store(path, index, canvas=canvas, source="test")
    for row, picture in enumerate(pictures):
        padded = np.zeros((canvas, canvas, 3), np.uint8)
        padded[: picture.shape[0], : picture.shape[1]] = picture
        group["image"][row] = padded  # type: ignore[index]
    finish_store(path, digest="images")
    return path


def write_label_maps(path: Path, label_maps: Sequence[NDArray[np.uint8]], *, canvas: int) -> LabelStore:
    """Write a store of cues; 255 outside of the pictures."""
    array = create_label_store(path, "cue", count=len(label_maps), canvas=canvas, attributes={})
    for row, label_map in enumerate(label_maps):
        padded = np.full((canvas, canvas), 255, np.uint8)
        padded[: label_map.shape[0], : label_map.shape[1]] = label_map
        array[row] = padded
    finish_store(path, digest="cues")
    return LabelStore(path, "cue", stage="cues")


class TinyTrunk(nn.Module):
    """Two convolutions, at strides 4 and 8, with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 6, 3, stride=2, padding=1)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        shallow = torch.relu(self.norm(self.shallow(images)))
        return [shallow, torch.relu(self.deep(shallow))]


def build_tiny_backbone() -> Backbone:
    return Backbone(TinyTrunk(), shallow_channels=4, deep_channels=6, output_stride=8)


def hash_tree(path: Path) -> dict[str, str]:
    """Hash every file below a folder, by its place there."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def write_segmenter(path: Path, spec: SegmenterSpec, *, random_seed: int = 0) -> Segmenter:
    """Write an untrained segmenter whose classes all win somewhere, as those of a trained one do."""
    torch.manual_seed(random_seed)
    model = spec.build(weights="none").eval()
    picture = torch.rand(1, 3, spec.input_size, spec.input_size)
    with torch.inference_mode():
        logits = model.aspp(model.backbone(picture)[1])[0].flatten(1)
    with torch.no_grad():
        for number, branch in enumerate(model.aspp.branches):
            scores = branch[-1]
            gain = 2 / logits.std(dim=1)
            scores.weight *= gain.view(-1, 1, 1, 1)
            scores.bias.copy_(scores.bias * gain - (logits.mean(dim=1) * gain if number == 0 else 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, model, spec, digest="segmenter")
    return model


# of `dsrg.training.fit`, for a few steps on a CPU
FIT: dict[str, Any] = {
    "batch_size": 4,
    "poly_power": 0.9,
    "warmup_steps": 2,
    "clip_norm": 0.0,
    "frozen_norms": None,
    "device": "cpu",
    "precision": "32-true",
    "loader_workers": 0,
    "random_seed": 5,
    "checkpoint_every": 2,
}
