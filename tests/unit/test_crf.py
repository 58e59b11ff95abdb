"""The CRF wrapper: axes, classes, settings, memory and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dsrg.crf import refine_batch, refine_probs, refine_stack

SETTINGS: dict[str, Any] = {
    "iterations": 5,
    "bilateral_weight": 6.0,
    "bilateral_xy": 12.0,
    "bilateral_rgb": 13.0,
    "gaussian_weight": 1.0,
    "gaussian_xy": 1.0,
}


def draw_scene(height: int = 18, width: int = 31) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A bright box, wide and off-centre, and blurred scores of it that spill over its right edge."""
    image = np.full((height, width, 3), 30, np.uint8)
    image[4:10, 3:20] = (220, 180, 40)
    foreground = np.full((height, width), 0.2, np.float32)
    foreground[4:10, 5:23] = 0.7
    return np.stack([1 - foreground, foreground]), image


def test_labels_snap_to_the_edges_of_a_picture_that_is_not_square() -> None:
    probs, image = draw_scene()
    refined = refine_probs(probs, image, **SETTINGS)
    np.testing.assert_array_equal(refined.argmax(axis=0) == 1, image[..., 0] > 100)


def test_transposing_everything_transposes_the_result() -> None:
    probs, image = draw_scene()
    refined = refine_probs(probs, image, **SETTINGS)
    turned = refine_probs(probs.transpose(0, 2, 1), image.transpose(1, 0, 2), **SETTINGS)
    np.testing.assert_allclose(turned.transpose(0, 2, 1), refined, atol=0.02)


def test_marginals_are_float32_and_add_up_to_one() -> None:
    refined = refine_probs(*draw_scene(), **SETTINGS)
    assert refined.dtype == np.float32
    assert refined.shape == (2, 18, 31)
    np.testing.assert_allclose(refined.sum(axis=0), 1.0, atol=1e-5)


def test_without_pairwise_terms_only_the_scale_is_removed() -> None:
    probs, image = draw_scene()
    settings = {**SETTINGS, "bilateral_weight": 0.0, "gaussian_weight": 0.0}
    np.testing.assert_allclose(refine_probs(3 * probs, image, **settings), probs, atol=1e-5)


def test_a_zero_probability_is_floored_not_infinite() -> None:
    probs, image = draw_scene()
    probs[1] = 0.0
    assert np.isfinite(refine_probs(probs, image, **SETTINGS)).all()


def test_an_offset_makes_every_foreground_class_likelier_by_so_many_nats() -> None:
    probs, image = draw_scene()
    settings = {**SETTINGS, "bilateral_weight": 0.0, "gaussian_weight": 0.0}
    three = np.stack([probs[0], probs[1] / 4, probs[1] * 3 / 4])
    leaning = three * np.array([1, 3, 3], np.float32)[:, None, None]
    refined = refine_probs(three, image, **settings, foreground_offset=np.log(3))
    np.testing.assert_allclose(refined, leaning / leaning.sum(axis=0), atol=1e-5)


def test_an_offset_keeps_what_a_crf_rubs_out() -> None:
    image = np.full((40, 40, 3), 90, np.uint8)
    image[18:22, 18:22] = 105
    foreground = np.full((40, 40), 0.02, np.float32)
    foreground[18:22, 18:22] = 0.5
    probs = np.stack([1 - foreground, foreground])
    kept = [
        refine_probs(probs, image, **SETTINGS, foreground_offset=offset).argmax(axis=0) == 1
        for offset in (0.0, 1.0)
    ]
    assert not kept[0].any()
    np.testing.assert_array_equal(kept[1], image[..., 0] > 100)


def test_one_class_is_certain_without_any_inference() -> None:
    image = np.zeros((3, 5, 3), np.uint8)
    assert (refine_probs(np.full((1, 3, 5), 0.2, np.float32), image, **SETTINGS) == 1).all()


def test_inputs_stay_unchanged_repeat_and_need_no_memory_order() -> None:
    probs, image = draw_scene()
    kept_probs, kept_image = probs.copy(), image.copy()
    refined = refine_probs(probs, image, **SETTINGS)
    again = refine_probs(np.asfortranarray(probs), image[:, ::-1][:, ::-1], **SETTINGS)
    np.testing.assert_array_equal(again, refined)
    np.testing.assert_array_equal(probs, kept_probs)
    np.testing.assert_array_equal(image, kept_image)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"probs": np.full((2, 4, 6), np.nan, np.float32)}, ValueError, "`probs` must be finite, got 48 NaN"),
        ({"probs": np.zeros((4, 6), np.float32)}, TypeError, r"`probs` must be \(P, H, W\) float32"),
        ({"image": np.zeros((6, 4, 3), np.uint8)}, ValueError, r"\(4, 6, 3\), got \(6, 4, 3\)"),
        ({"image": np.zeros((4, 6, 3), np.float32)}, TypeError, "`image` must be uint8, got float32"),
        ({"iterations": 0}, ValueError, "`iterations` must be at least 1, got 0"),
        ({"bilateral_weight": -1.0}, ValueError, "`bilateral_weight` must be at least 0, got -1.0"),
        ({"bilateral_rgb": 0.0}, ValueError, "`bilateral_rgb` must be over 0, got 0.0"),
        ({"gaussian_xy": float("nan")}, ValueError, "`gaussian_xy` must be over 0, got nan"),
    ],
)
def test_errors_name_argument_rule_and_value(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"probs": np.full((2, 4, 6), 0.5, np.float32), "image": np.zeros((4, 6, 3), np.uint8)}
    given |= {**SETTINGS, **changed}
    with pytest.raises(error, match=message):
        refine_probs(given.pop("probs"), given.pop("image"), **given)


def test_a_stack_equals_its_maps_one_by_one() -> None:
    probs, image = draw_scene()
    stack = np.stack([probs, probs**2, probs[::-1]])
    expected = [refine_probs(maps, image, **SETTINGS) for maps in stack]
    np.testing.assert_array_equal(refine_stack(stack, image, **SETTINGS), expected)


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_a_batch_is_refined_over_each_images_own_classes(kind: str) -> None:
    scene, image = draw_scene()
    probs = np.stack([np.stack([scene[0], scene[1], scene[1]])] * 2) * np.float32(0.5)
    presents = [np.array([0, 2]), np.array([0])]
    given: Any = probs if kind == "array" else torch.from_numpy(probs).requires_grad_()
    refined = refine_batch(given, np.stack([image, image]), presents, **SETTINGS)
    assert isinstance(refined, type(given))
    assert not getattr(refined, "requires_grad", False)
    values = np.asarray(refined)
    np.testing.assert_array_equal(values[0, [0, 2]], refine_probs(probs[0, [0, 2]], image, **SETTINGS))
    assert (values[0, 1] == 0).all()
    assert (values[1, 1:] == 0).all()
    assert (values[1, 0] == 1).all()


def test_a_bfloat16_batch_comes_back_in_float32() -> None:
    probs, image = draw_scene()
    half = torch.from_numpy(probs)[None].bfloat16()
    refined = refine_batch(half, torch.from_numpy(image)[None], [np.array([0, 1])], **SETTINGS)
    assert refined.dtype == torch.float32


def test_batches_of_unequal_length_are_refused() -> None:
    probs, image = draw_scene()
    with pytest.raises(ValueError, match="one entry per image, got 1, 1 and 0"):
        refine_batch(probs[None], image[None], [], **SETTINGS)
