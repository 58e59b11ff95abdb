"""Networks over whole pictures: batches by size, scales, mirrored views, grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_data import build_tiny_backbone
from torch import Tensor

from dsrg.inference import (
    ActivationMaps,
    ProbabilityMaps,
    activate_and_describe,
    activate_views,
    average_over_views,
    group_by_size,
    predict_batch,
    predict_probs,
    score_images,
)
from dsrg.models.classifier import Classifier
from dsrg.models.segmenter import Segmenter

CPU = torch.device("cpu")


def draw_pictures(height: int = 40, width: int = 64, count: int = 2) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def pool(view: Tensor) -> Tensor:
    """A network that is the same seen in a mirror: means of 4 x 4 pixels."""
    return torch.nn.functional.avg_pool2d(view, 4)


def average(images: NDArray[np.uint8], **changes: Any) -> Tensor:
    settings: dict[str, Any] = {
        "long_side": 64,
        "scales": (1.0,),
        "flip": False,
        "cells": (10, 16),
        "device": CPU,
    }
    return average_over_views(changes.pop("forward", pool), images, **{**settings, **changes})


def build_segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(
        build_tiny_backbone(),
        num_classes=3,
        aspp_channels=6,
        aspp_rates=(1,),
        aspp_separable=True,
        dropout=0.0,
        skip_channels=0,
        input_size=64,
    ).eval()


def test_batches_hold_pictures_of_one_size() -> None:
    sizes = np.array([[4, 6], [6, 4], [4, 6], [4, 6], [6, 4], [2, 2]], np.int32)
    batches = list(group_by_size([0, 1, 2, 3, 4], sizes, batch_size=2))
    assert batches == [[0, 2], [3], [1, 4]]
    assert list(group_by_size([], sizes, batch_size=2)) == []


def test_one_view_is_the_network_itself() -> None:
    images = draw_pictures()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(average(images), pool(pixels))


def test_the_mirrored_picture_gives_the_mirrored_maps() -> None:
    images = draw_pictures()
    for flip in (False, True):
        straight = average(images, flip=flip, scales=(0.75, 1.0))
        mirrored = average(images[:, :, ::-1], flip=flip, scales=(0.75, 1.0))
        torch.testing.assert_close(mirrored.flip(-1), straight)


def test_flipping_makes_any_network_indifferent_to_mirrors() -> None:
    images = draw_pictures()
    forward = ProbabilityMaps(build_segmenter())
    settings: dict[str, Any] = {"long_side": 64, "scales": (1.0,), "cells": (40, 64), "device": CPU}
    one = predict_batch(forward, images, flip=True, **settings)
    other = predict_batch(forward, images[:, :, ::-1], flip=True, **settings)
    np.testing.assert_allclose(other[..., ::-1], one, atol=1e-5)
    lopsided = predict_batch(forward, images, flip=False, **settings)
    mirrored = predict_batch(forward, images[:, :, ::-1], flip=False, **settings)
    assert np.abs(mirrored[..., ::-1] - lopsided).max() > 1e-4


def test_views_have_the_scaled_size_and_all_count_alike() -> None:
    seen: list[tuple[int, int]] = []

    def forward(view: Tensor) -> Tensor:
        seen.append((view.shape[-2], view.shape[-1]))
        return torch.full((len(view), 1, 2, 2), float(view.shape[-1]))

    maps = average(draw_pictures(40, 80), forward=forward, long_side=160, scales=(0.5, 1.0), cells=(5, 10))
    assert seen == [(40, 80), (80, 160)]
    assert maps.shape == (2, 1, 5, 10)
    torch.testing.assert_close(maps, torch.full((2, 1, 5, 10), 120.0))


def test_a_thin_picture_is_never_smaller_than_a_network_can_see() -> None:
    seen = []

    def forward(view: Tensor) -> Tensor:
        seen.append(tuple(view.shape[-2:]))
        return view

    average(draw_pictures(3, 64), forward=forward, cells=(3, 64))
    assert seen == [(32, 64)]


def test_activations_lie_on_a_grid_of_the_picture_and_are_not_negative() -> None:
    torch.manual_seed(0)
    classifier = Classifier(build_tiny_backbone(), num_foreground=2).eval()
    maps = activate_views(
        ActivationMaps(classifier),
        draw_pictures(42, 63),
        long_side=48,
        scales=(1.0,),
        flip=True,
        stride=4,
        device=CPU,
    )
    assert maps.shape == (2, 2, 11, 16)
    assert maps.dtype == np.float32
    assert maps.min() >= 0


@pytest.mark.parametrize("scales", [(0.75, 1.0), (1.0, 0.75)])
def test_features_of_both_depths_lie_on_one_grid(scales: tuple[float, float]) -> None:
    torch.manual_seed(0)
    classifier, images = Classifier(build_tiny_backbone(), num_foreground=2).eval(), draw_pictures(40, 64)
    settings: Any = {"long_side": 64, "scales": scales, "flip": True, "stride": 4, "device": CPU}
    maps, shallow, deep = activate_and_describe(ActivationMaps(classifier), images, cells=(5, 8), **settings)
    without = ActivationMaps(classifier, features=False)
    np.testing.assert_array_equal(maps, activate_views(without, images, **settings))
    assert shallow.shape == (2, classifier.backbone.shallow_channels, 5, 8)
    assert deep.shape == (2, classifier.backbone.deep_channels, 5, 8)
    with torch.inference_mode():
        fine, _ = classifier.backbone(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    step = fine.shape[-1] // 8
    np.testing.assert_allclose(
        shallow[0, :, 1, 2],
        fine[0, :, step : 2 * step, 2 * step : 3 * step].mean(dim=(1, 2)).numpy(),
        atol=1e-5,
    )


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (33, 57)])
def test_probabilities_have_the_pictures_own_size_and_add_up_to_one(size: tuple[int, int]) -> None:
    image = draw_pictures(*size)[0]
    probs = predict_probs(
        ProbabilityMaps(build_segmenter()), image, long_side=64, scales=(0.75, 1.25), flip=True, device=CPU
    )
    assert probs.shape == (3, *size)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)


def test_a_batch_equals_its_pictures_one_by_one() -> None:
    images, forward = draw_pictures(), ProbabilityMaps(build_segmenter())
    batch = predict_batch(forward, images, long_side=64, scales=(1.0,), flip=True, cells=(40, 64), device=CPU)
    for image, probs in zip(images, batch, strict=True):
        alone = predict_probs(forward, image, long_side=64, scales=(1.0,), flip=True, device=CPU)
        np.testing.assert_allclose(alone, probs, atol=1e-5)


def test_scores_are_probabilities_of_each_class_apart() -> None:
    torch.manual_seed(0)
    classifier = Classifier(build_tiny_backbone(), num_foreground=2).eval()
    torch.nn.init.constant_(classifier.head.weight, 0.0)
    scores = score_images(classifier, draw_pictures(), long_side=64, device=CPU)
    assert scores.shape == (2, 2)
    np.testing.assert_array_equal(scores, 0.5)
