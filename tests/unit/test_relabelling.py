"""Present classes only, and pseudo-labels out of probabilities, seeds and a CRF."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_data import CRF

from dsrg.relabelling import draw_pseudo_label, keep_present

NO_CRF: dict[str, Any] = {**CRF, "bilateral_weight": 0.0, "gaussian_weight": 0.0}
PRESENT = np.array([0, 3])
UNSEEDED = np.full((1, 4), 255, np.uint8)


def split(foreground: list[float]) -> NDArray[np.float32]:
    plane = np.array([foreground], np.float32)
    return np.stack([1 - plane, plane])


def refine(probs: NDArray[np.float32], seed: NDArray[np.uint8], **changes: Any) -> list[list[int]]:
    settings: dict[str, Any] = {"seed_weight": 0.5, "min_confidence": 0.0, "crf": NO_CRF} | changes
    image = np.full((*seed.shape, 3), 90, np.uint8)
    label = draw_pseudo_label(probs, seed, image, PRESENT, **settings)
    assert label.dtype == np.uint8
    return label.tolist()


def test_absent_classes_are_left_out_and_the_rest_adds_up_to_one() -> None:
    probs = np.array([[[0.2, 0.0]], [[0.5, 1.0]], [[0.3, 0.0]]], np.float32)
    kept = keep_present(probs, np.array([0, 2]))
    np.testing.assert_allclose(kept[:, 0, 0], [0.4, 0.6])
    assert np.isfinite(kept).all()
    np.testing.assert_array_equal(keep_present(probs[:, :, :1], np.array([0])), [[[1]]])


def test_the_likeliest_class_wins_and_ids_are_those_of_the_data_set() -> None:
    assert refine(split([0.1, 0.4, 0.6, 0.9]), UNSEEDED) == [[0, 0, 3, 3]]


def test_a_seed_pulls_its_pixel() -> None:
    seed = np.array([[3, 3, 255, 0]], np.uint8)
    probs = split([0.4, 0.1, 0.4, 0.6])
    assert refine(probs, seed, seed_weight=0.0) == [[0, 0, 0, 3]]
    assert refine(probs, seed, seed_weight=0.2) == [[3, 0, 0, 0]]
    assert refine(probs, seed, seed_weight=1.0) == [[3, 3, 0, 0]]


def test_doubtful_pixels_stay_unlabelled() -> None:
    seed = np.array([[255, 255, 255, 3]], np.uint8)
    probs = split([0.1, 0.45, 0.9, 0.5])
    assert refine(probs, seed, min_confidence=0.7) == [[0, 255, 3, 3]]


def test_a_pixel_the_crf_turned_around_is_doubtful() -> None:
    image = np.full((9, 9, 3), 30, np.uint8)
    probs = np.zeros((2, 9, 9), np.float32)
    probs[0], probs[1] = 0.9, 0.1
    probs[:, 4, 4] = 0.4, 0.6
    seed = np.full((9, 9), 255, np.uint8)
    settings: dict[str, Any] = {"seed_weight": 0.5, "crf": CRF}
    plain = draw_pseudo_label(probs, seed, image, PRESENT, min_confidence=0.0, **settings)
    wary = draw_pseudo_label(probs, seed, image, PRESENT, min_confidence=0.5, **settings)
    assert plain[4, 4] == 0
    assert wary[4, 4] == 255
    assert (wary != 255).sum() == 80


def test_a_picture_without_classes_is_background() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    label = draw_pseudo_label(
        np.ones((1, 2, 3), np.float32),
        np.full((2, 3), 255, np.uint8),
        image,
        np.array([0]),
        seed_weight=0.5,
        min_confidence=0.9,
        crf=CRF,
    )
    np.testing.assert_array_equal(label, np.zeros((2, 3)))


@pytest.mark.parametrize("seed_weight", [0.0, 0.5])
def test_probabilities_and_seeds_stay_as_they_are(seed_weight: float) -> None:
    probs, seed = split([0.1, 0.4, 0.6, 0.9]), np.array([[3, 255, 0, 255]], np.uint8)
    kept_probs, kept_seed = probs.copy(), seed.copy()
    refine(probs, seed, seed_weight=seed_weight)
    np.testing.assert_array_equal(probs, kept_probs)
    np.testing.assert_array_equal(seed, kept_seed)
