"""CUDA gives what the CPU gives: `pytest -m gpu` on a machine with a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from dsrg.inference import ActivationMaps, ProbabilityMaps, activate_views, predict_probs
from dsrg.models import ClassifierSpec, SegmenterSpec
from dsrg.objectives import LabelLoss, SeedingLoss
from dsrg.training import build_optimizer, fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]
CRF = {
    "iterations": 5,
    "bilateral_weight": 10.0,
    "bilateral_xy": 8.0,
    "bilateral_rgb": 13.0,
    "gaussian_weight": 3.0,
    "gaussian_xy": 1.0,
}
SPEC = SegmenterSpec(
    backbone="efficientnet_lite0",
    classes=("cat", "dog"),
    output_stride=16,
    aspp_channels=32,
    aspp_rates=(1, 3),
    aspp_separable=True,
    dropout=0.0,
    skip_channels=16,
    input_size=128,
)


def build_label_loss(boundary_weight: float) -> LabelLoss:
    return LabelLoss(balance="none", log_odds=0.0, boundary_weight=boundary_weight, crf=CRF)


@pytest.fixture
def picture() -> np.ndarray:
    coarse = np.random.default_rng(0).random((1, 3, 6, 8), dtype=np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(96, 128), mode="bicubic")
    return (255 * smooth[0].clamp(0, 1)).byte().permute(1, 2, 0).numpy()


class Samples(Dataset[Any]):
    def __init__(self, picture: np.ndarray) -> None:
        self.image = torch.from_numpy(picture[:96, :96].copy()).permute(2, 0, 1).float() / 255
        self.labels = torch.full((96, 96), 255)
        self.labels[10:40, 10:40], self.labels[60:90, 50:90] = 1, 0

    def __getitem__(self, number: int) -> Any:
        return self.image, self.labels, torch.tensor([True, False]), torch.ones(96, 96, dtype=torch.bool)


def test_cams_are_those_of_the_cpu(picture: np.ndarray):
    torch.manual_seed(0)
    classifier = ClassifierSpec("efficientnet_lite0", ("cat", "dog")).build(
        output_stride=16, weights="imagenet"
    )
    classifier.eval()
    found = []
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        classifier.to(device)
        found.append(
            activate_views(
                ActivationMaps(classifier),
                picture[None],
                long_side=128,
                scales=(0.75, 1.0),
                flip=True,
                stride=8,
                device=device,
            )
        )
    assert np.abs(found[0] - found[1]).max() < 0.01 * found[0].max()


def test_predictions_are_those_of_the_cpu(picture: np.ndarray):
    torch.manual_seed(0)
    segmenter = SPEC.build(weights="imagenet").eval()
    found = []
    for name in ("cpu", "cuda"):
        segmenter.to(name)
        found.append(
            predict_probs(
                ProbabilityMaps(segmenter),
                picture,
                long_side=segmenter.input_size,
                scales=(1.0,),
                flip=True,
                device=torch.device(name),
            )
        )
    assert np.abs(found[0] - found[1]).max() < 0.01
    first, second = np.sort(found[0], axis=0)[[-1, -2]]
    sure = first - second > 0.02  # TF32 rounds; where two classes are as good as equal, either may win
    assert sure.mean() > 0.5
    assert (found[0].argmax(0) == found[1].argmax(0))[sure].all()


def train(device: str, precision: Any, picture: np.ndarray, loss: Any, checkpoint: Path | None = None) -> Any:
    torch.manual_seed(0)
    segmenter = SPEC.build(weights="imagenet")
    losses: list[float] = []
    fit(
        segmenter,
        build_optimizer(
            segmenter, [segmenter.aspp], lr=0.001, head_lr_multiplier=10, momentum=0.9, weight_decay=0.0
        ),
        Samples(picture),
        loss,
        steps=12,
        batch_size=2,
        poly_power=0.9,
        warmup_steps=0,
        clip_norm=5,
        frozen_norms=segmenter.backbone,
        device=device,
        precision=precision,
        loader_workers=0,
        random_seed=0,
        checkpoint=checkpoint,
        checkpoint_every=6,
        on_step=lambda step: losses.append(step.losses["loss"]),
    )
    return segmenter, losses


@pytest.mark.parametrize("kind", ["seeds", "labels"])
def test_a_training_is_that_of_the_cpu(picture: np.ndarray, kind: str):
    loss = (
        SeedingLoss(
            num_classes=3,
            fg_threshold=0.85,
            bg_threshold=0.99,
            grow_on="probs",
            log_odds=0.5,
            boundary_weight=1.0,
            crf=CRF,
        )
        if kind == "seeds"
        else build_label_loss(0.0)
    )
    on_cpu = train("cpu", "32-true", picture, loss)[1]
    on_gpu = train("cuda", "32-true", picture, loss)[1]
    assert on_gpu[0] == pytest.approx(on_cpu[0], rel=0.01)
    assert on_gpu[-1] == pytest.approx(on_cpu[-1], rel=0.2)
    assert on_gpu[-1] < 0.7 * on_gpu[0]


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_learns_too(picture: np.ndarray, precision: str):
    losses = train("cuda", precision, picture, build_label_loss(1.0))[1]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]


def test_a_checkpoint_of_the_gpu_goes_on(picture: np.ndarray, tmp_path: Path):
    file = tmp_path / "last.ckpt"
    segmenter, _ = train("cuda", "32-true", picture, build_label_loss(0.0), file)
    again, losses = train("cuda", "32-true", picture, build_label_loss(0.0), file)
    assert losses == []
    for name, tensor in segmenter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
