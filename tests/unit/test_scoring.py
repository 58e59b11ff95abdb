"""Scoring of CAMs and predictions on pictures small enough to count by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dsrg.crf import refine_probs
from dsrg.cues import sharpen_cams
from dsrg.metrics import count_pixels
from dsrg.scaling import scale_maps
from dsrg.scoring import (
    add_background,
    list_likely,
    refine_prediction,
    summarise_labels,
    summarise_predictions,
    sweep_exponents,
    sweep_thresholds,
)

CRF: dict[str, Any] = {
    "iterations": 3,
    "bilateral_weight": 4.0,
    "bilateral_xy": 5.0,
    "bilateral_rgb": 13.0,
    "gaussian_weight": 1.0,
    "gaussian_xy": 1.0,
}
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [(13, 22), (5, 7), (3, 2), (1, 1)])
def test_maps_scale_as_torch_does(size: tuple[int, int]) -> None:
    maps = RNG.random((3, 5, 7), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size=size, mode="bilinear", align_corners=False
    )[0].numpy()
    np.testing.assert_allclose(scale_maps(maps, size), expected, atol=1e-6)


def test_the_background_score_falls_as_the_largest_cam_rises() -> None:
    cams = np.array([[[0.0, 0.5, 1.0]], [[0.0, 0.2, 0.3]]], np.float32)
    np.testing.assert_allclose(add_background(cams, exponent=2.0)[0], [[1.0, 0.25, 0.0]])
    np.testing.assert_array_equal(add_background(cams, exponent=2.0)[1:], cams)
    assert (add_background(np.zeros((0, 1, 3), np.float32), exponent=2.0) == 1).all()


def test_thresholds_are_swept_as_if_one_by_one() -> None:
    cams = np.array([[[0.1, 0.6, 0.9, 0.2]], [[0.0, 0.7, 0.1, 0.4]]], np.float32)
    truth = np.array([[0, 3, 2, 255]], np.uint8)
    counts = sweep_thresholds(cams, np.array([2, 3]), truth, thresholds=[0.3, 0.8], num_classes=4)
    low, high = np.array([[0, 3, 2, 3]], np.uint8), np.array([[0, 0, 2, 0]], np.uint8)
    np.testing.assert_array_equal(counts[0], count_pixels(truth, low, num_classes=4))
    np.testing.assert_array_equal(counts[1], count_pixels(truth, high, num_classes=4))


def test_exponents_are_swept_as_if_one_by_one() -> None:
    cams, image = RNG.random((2, 8, 6), np.float32), RNG.integers(0, 255, (8, 6, 3), np.uint8)
    ids, truth = np.array([1, 3]), RNG.integers(0, 4, (8, 6)).astype(np.uint8)
    counts = sweep_exponents(cams, ids, image, truth, exponents=[0.5, 4.0], num_classes=4, crf=CRF)
    for number, exponent in enumerate([0.5, 4.0]):
        refined = refine_probs(add_background(cams, exponent=exponent), image, **CRF)
        label_map = np.array([0, 1, 3], np.uint8)[refined.argmax(axis=0)]
        np.testing.assert_array_equal(counts[number], count_pixels(truth, label_map, num_classes=4))


def test_the_baseline_sharpens_cams_as_the_cues_do() -> None:
    cams, image = RNG.random((2, 12, 9), np.float32), RNG.integers(0, 255, (12, 9, 3), np.uint8)
    present, truth = np.array([0, 1, 3]), RNG.integers(0, 4, (12, 9)).astype(np.uint8)
    counts = sweep_exponents(cams, present[1:], image, truth, exponents=[2.0], num_classes=4, crf=CRF)
    (label_map,) = sharpen_cams(cams, image, present, exponents=[2.0], crf=CRF)
    np.testing.assert_array_equal(counts[0], count_pixels(truth, label_map, num_classes=4))


def test_pictures_without_any_class_are_background() -> None:
    nothing, truth = np.zeros((0, 4, 5), np.float32), np.zeros((4, 5), np.uint8)
    ids, image = np.zeros(0, np.int64), np.zeros((4, 5, 3), np.uint8)
    assert sweep_thresholds(nothing, ids, truth, thresholds=[0.5], num_classes=2)[0, 0, 0] == 20
    counts = sweep_exponents(nothing, ids, image, truth, exponents=[1.0], num_classes=2, crf=CRF)
    assert counts[0, 0, 0] == 20


def test_only_likely_classes_meet_in_the_crf() -> None:
    probs = np.zeros((4, 6, 7), np.float32)
    probs[2], probs[3, 0, 0] = 0.95, 0.05
    ids = list_likely(probs, min_peak=0.01)
    np.testing.assert_array_equal(ids, [0, 2, 3])
    label_map = refine_prediction(probs[ids], ids, np.zeros((6, 7, 3), np.uint8), crf=CRF)
    assert (label_map == 2).all()
    assert label_map.dtype == np.uint8


def test_summaries_name_the_classes_and_the_policies() -> None:
    counts = np.array([[6, 0, 2], [1, 3, 0]])
    found = summarise_labels(counts, ["cat"])
    assert found["unlabelled_as_background"]["iou"] == {"background": 8 / 9, "cat": 3 / 4}
    assert found["unlabelled_excluded"]["miou"] == pytest.approx((6 / 7 + 3 / 4) / 2)
    assert found["foreground"]["recall"] == 3 / 4
    complete = summarise_predictions(counts, ["cat"])
    assert complete["confusion"] == [[8, 0], [1, 3]]
    assert complete["pixel_accuracy"] == pytest.approx(11 / 12)
