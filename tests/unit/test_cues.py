"""Cues on pictures of a few pixels; a dot is unlabelled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_data import CRF

from dsrg.cues import (
    choose_exponent,
    mark_peak,
    pick_by_agreement,
    pick_by_threshold,
    sharpen_cams,
    take_background,
)

NO_CRF: dict[str, Any] = {**CRF, "bilateral_weight": 0.0, "gaussian_weight": 0.0}


def draw(label_map: NDArray[np.uint8]) -> list[str]:
    return ["".join("." if value == 255 else str(value) for value in row) for row in label_map]


def scale(rows: list[str]) -> NDArray[np.float32]:
    """Digits are tenths; x is one."""
    return np.array([[1.0 if d == "x" else int(d) / 10 for d in row] for row in rows], np.float32)


def grey(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 90, np.uint8)


CAMS = np.stack([scale(["x6300", "64300"]), scale(["0036x", "00369"])])
PRESENT = np.array([0, 2, 5])


def test_thresholds_pick_the_largest_cam_and_leave_what_is_between() -> None:
    cue = pick_by_threshold(CAMS, PRESENT, fg_threshold=0.45, bg_threshold=0.2)
    assert draw(cue) == ["22.55", "2..55"]
    assert cue.dtype == np.uint8
    lower = pick_by_threshold(CAMS, PRESENT, fg_threshold=0.2, bg_threshold=0.1)
    assert draw(lower) == ["22255", "22255"]  # ties go to the lower class


def test_background_is_where_every_cam_is_low() -> None:
    cams = scale(["x5100"])[None]
    cue = pick_by_threshold(cams, np.array([0, 1]), fg_threshold=0.6, bg_threshold=0.2)
    assert draw(cue) == ["1.000"]


def test_both_thresholds_are_strict() -> None:
    cams = np.array([[[0.25, 0.5]]], np.float32)
    cue = pick_by_threshold(cams, np.array([0, 1]), fg_threshold=0.5, bg_threshold=0.25)
    assert draw(cue) == [".."]


@pytest.mark.parametrize(("fg", "bg"), [(0.2, 0.3), (1.2, 0.3), (0.2, -0.1)])
def test_thresholds_out_of_order_are_refused(fg: float, bg: float) -> None:
    with pytest.raises(
        ValueError, match=f"`bg_threshold` must not be over `fg_threshold`.*got {bg} and {fg}"
    ):
        pick_by_threshold(CAMS, PRESENT, fg_threshold=fg, bg_threshold=bg)


def test_a_picture_without_classes_is_background_everywhere() -> None:
    none, present = np.zeros((0, 2, 3), np.float32), np.array([0])
    by_threshold = pick_by_threshold(none, present, fg_threshold=0.5, bg_threshold=0.1)
    by_agreement = pick_by_agreement(none, grey(2, 3), present, exponent=2.0, spread=2.0, crf=NO_CRF)
    assert draw(by_threshold) == draw(by_agreement) == ["000", "000"]
    assert by_threshold.dtype == by_agreement.dtype == np.uint8


def test_sharpening_labels_every_pixel_with_a_present_class() -> None:
    (label_map,) = sharpen_cams(CAMS, grey(2, 5), PRESENT, exponents=[4.0], crf=NO_CRF)
    # background is (1 - 0.3)^4 = 0.24 in the middle, where both classes have 0.3
    assert draw(label_map) == ["22255", "22255"]


def test_a_larger_exponent_is_more_generous_to_the_foreground() -> None:
    label_maps = sharpen_cams(CAMS, grey(2, 5), PRESENT, exponents=(0.25, 0.5, 1.0, 2.0, 8.0), crf=NO_CRF)
    shares = (label_maps != 0).mean(axis=(1, 2)).tolist()
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


def test_sharpening_follows_the_edges_of_the_picture() -> None:
    image = grey(12, 17)
    image[3:9, 4:12] = (230, 200, 20)
    cam = np.full((1, 12, 17), 0.2, np.float32)
    cam[0, 3:9, 5:14] = 0.8
    crf = {**CRF, "bilateral_weight": 8.0}
    (label_map,) = sharpen_cams(cam, image, np.array([0, 3]), exponents=[2.0], crf=crf)
    np.testing.assert_array_equal(label_map == 3, image[..., 0] > 100)


def test_cues_are_where_generous_and_strict_agree() -> None:
    cams = scale(["x97531000"])[None]
    present = np.array([0, 4])
    image = grey(1, 9)
    generous, strict = sharpen_cams(cams, image, present, exponents=(4.0, 0.25), crf=NO_CRF)
    cue = pick_by_agreement(cams, image, present, exponent=1.0, spread=4.0, crf=NO_CRF)
    assert draw(generous) == ["444440000"]
    assert draw(strict) == ["440000000"]
    assert draw(cue) == ["44...0000"]


def test_without_spread_nothing_is_unlabelled() -> None:
    cue = pick_by_agreement(CAMS, grey(2, 5), PRESENT, exponent=2.0, spread=1.0, crf=NO_CRF)
    assert not (cue == 255).any()


def test_a_spread_under_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`spread` must be at least 1, got 0.5"):
        pick_by_agreement(CAMS, grey(2, 5), PRESENT, exponent=2.0, spread=0.5, crf=NO_CRF)


def test_a_class_without_a_cue_gets_its_peak() -> None:
    cams = np.stack([scale(["xxx90000"]), scale(["08800000"])])  # class 7 is nowhere the likeliest
    cue = pick_by_agreement(cams, grey(1, 8), np.array([0, 1, 7]), exponent=0.5, spread=2.0, crf=NO_CRF)
    assert draw(cue) == ["17710000"]


def test_a_peak_is_one_connected_patch_around_the_maximum() -> None:
    cue = np.full((2, 6), 255, np.uint8)
    mark_peak(cue, scale(["890090", "0x0009"]), 3)
    assert draw(cue) == [".3....", ".3...."]


def test_a_peak_takes_pixels_of_another_object_only_where_it_has_no_other() -> None:
    cue = np.array([[5, 5, 0, 255]], np.uint8)
    mark_peak(cue, scale(["0999"]), 3)
    assert cue.tolist() == [[5, 5, 3, 3]]
    mark_peak(cue, scale(["x000"]), 4)
    assert cue.tolist() == [[4, 5, 3, 3]]


def test_background_comes_from_saliency_and_foreground_stays() -> None:
    cue = np.array([[2, 2, 0, 255]], np.uint8)
    saliency = np.array([[0, 255, 200, 10]], np.uint8)
    taken = take_background(cue, saliency, np.array([0, 2]), saliency_threshold=0.1)
    assert draw(taken) == ["22.0"]
    assert draw(cue) == ["220."]
    edge = take_background(cue, np.full((1, 4), 51, np.uint8), np.array([0, 2]), saliency_threshold=0.2)
    assert draw(edge) == ["22.."]  # 51 of 255 is not under 0.2


def test_a_picture_without_classes_needs_no_saliency() -> None:
    cue = np.zeros((1, 2), np.uint8)
    assert draw(
        take_background(cue, np.full((1, 2), 255, np.uint8), np.array([0]), saliency_threshold=0.1)
    ) == ["00"]


def test_a_cam_of_zeros_has_no_peak() -> None:
    cue = np.full((1, 3), 255, np.uint8)
    mark_peak(cue, np.zeros((1, 3), np.float32), 3)
    assert draw(cue) == ["..."]


def test_cams_and_picture_stay_as_they_are() -> None:
    cams, image = CAMS.copy(), grey(2, 5)
    pick_by_agreement(cams, image, PRESENT, exponent=2.0, spread=2.0, crf=CRF)
    np.testing.assert_array_equal(cams, CAMS)
    np.testing.assert_array_equal(image, grey(2, 5))


# -- the exponent ------------------------------------------------------------------------------


def two_humps(low: int, high: int) -> NDArray[np.int64]:
    histogram = np.zeros(100, np.int64)
    histogram[[low, low + 1]] = 500
    histogram[[high, high + 1]] = 500
    return histogram


@pytest.mark.parametrize("histogram", [np.zeros(16, np.int64), np.eye(1, 16, 5, dtype=np.int64)[0] * 80])
def test_cams_of_fewer_than_two_values_get_the_usual_exponent(histogram: NDArray[np.int64]) -> None:
    assert choose_exponent(histogram) == 2.0


def test_background_and_foreground_are_even_at_otsus_threshold() -> None:
    histogram = two_humps(20, 40)
    exponent = choose_exponent(histogram)
    thresholds = np.linspace(0.2, 0.45, 500)
    even = thresholds[np.abs((1 - thresholds) ** exponent - thresholds).argmin()]
    assert 0.21 < even < 0.41


def test_a_higher_threshold_gives_a_smaller_exponent() -> None:
    exponents = [choose_exponent(two_humps(low, low + 15)) for low in range(5, 80, 10)]
    assert exponents == sorted(exponents, reverse=True)
    assert exponents[0] > 1 > exponents[-1]


def test_extreme_cams_stay_within_bounds() -> None:
    assert 0.25 <= choose_exponent(two_humps(96, 98)) < 1
    assert 1 < choose_exponent(two_humps(0, 2)) <= 8
