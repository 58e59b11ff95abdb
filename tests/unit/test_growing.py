"""Each clause of the growing rule on a picture small enough to read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dsrg.growing import grow_label_map, grow_seeds, grow_seeds_batch
from dsrg.labels import IGNORE_INDEX

THRESHOLDS: dict[str, Any] = {"fg_threshold": 0.85, "bg_threshold": 0.99}
PRESENT = np.array([0, 1, 2])


def draw(*rows: str) -> NDArray[np.uint8]:
    """Read a label map from text: a digit is a class, a dot is unlabelled."""
    return np.array([[IGNORE_INDEX if char == "." else int(char) for char in row] for row in rows], np.uint8)


def draw_planes(*rows: str, classes: int = 3) -> NDArray[np.bool_]:
    return draw(*rows)[None] == np.arange(classes, dtype=np.uint8)[:, None, None]


def draw_probs(*rows: str, top: float = 0.9, classes: int = 3) -> NDArray[np.float32]:
    """Give the drawn class probability `top`; a dot is undecided."""
    probs = np.where(draw_planes(*rows, classes=classes), np.float32(top), np.float32(0.05))
    return np.ascontiguousarray(probs, np.float32)


def grow(cue: list[str], confident: list[str], top: float = 0.9, **changed: Any) -> NDArray[np.bool_]:
    given = {"present": PRESENT, **THRESHOLDS, **changed}
    present = given.pop("present")
    return grow_seeds(draw_planes(*cue), draw_probs(*confident, top=top), present, **given)


def test_a_confident_pixel_joins_the_region_of_its_cue() -> None:
    seeds = grow(["1....", "....."], ["111..", "....."])
    np.testing.assert_array_equal(seeds, draw_planes("111..", "....."))


def test_a_confident_region_without_a_cue_stays_unlabelled() -> None:
    seeds = grow(["1....", "....."], ["11.11", "....."])
    np.testing.assert_array_equal(seeds, draw_planes("11...", "....."))


def test_diagonal_neighbours_are_connected() -> None:
    seeds = grow(["1...", "....", "....", "...."], ["1...", ".1..", "..1.", ".1.."])
    np.testing.assert_array_equal(seeds, draw_planes("1...", ".1..", "..1.", ".1.."))


def test_two_arms_that_meet_only_below_are_one_region() -> None:
    seeds = grow(["1...", "....", "...."], ["1..1", "1..1", ".11."])
    np.testing.assert_array_equal(seeds, draw_planes("1..1", "1..1", ".11."))


def test_background_needs_its_own_threshold_too() -> None:
    cue, confident = ["0..", "1.."], ["000", "111"]
    np.testing.assert_array_equal(grow(cue, confident, top=0.95), draw_planes("0..", "111"))
    np.testing.assert_array_equal(grow(cue, confident, top=0.995), draw_planes("000", "111"))


def test_the_threshold_itself_is_not_over_the_threshold() -> None:
    top = float(np.float32(0.85))
    np.testing.assert_array_equal(grow(["1.."], ["111"], top=top), draw_planes("1.."))


def test_thresholds_are_compared_in_float32() -> None:
    over_in_double = float(np.float32(0.1))  # 0.1000000015 in double
    seeds = grow(["1.."], ["111"], top=over_in_double, fg_threshold=0.1, bg_threshold=0.1)
    np.testing.assert_array_equal(seeds, draw_planes("1.."))


def test_an_absent_class_does_not_grow_but_keeps_its_cues() -> None:
    seeds = grow(["2...", "1..."], ["222.", "11.."], present=np.array([0, 1]))
    np.testing.assert_array_equal(seeds, draw_planes("2...", "11.."))


def test_ties_go_to_the_lowest_class() -> None:
    cues = draw_planes("1..", "2..")
    probs = np.zeros((3, 2, 3), np.float32)
    probs[1:] = 0.9
    seeds = grow_seeds(cues, probs, PRESENT, **THRESHOLDS)
    np.testing.assert_array_equal(seeds[1], [[True, True, True], [False, True, True]])
    np.testing.assert_array_equal(seeds[2], cues[2])


def test_a_region_grows_through_a_foreign_cue_without_taking_it() -> None:
    np.testing.assert_array_equal(grow(["1.2.."], ["11111"]), draw_planes("11211"))


def test_a_cue_that_another_class_overrides_is_no_source_for_its_own() -> None:
    np.testing.assert_array_equal(grow(["2....", "....."], ["12222", "....."]), draw_planes("2....", "....."))


def test_a_pixel_with_cues_of_two_other_classes_is_taken() -> None:
    cues = draw_planes("1..")
    cues[[0, 2], 0, 1] = True
    seeds = grow_seeds(cues, draw_probs("111"), PRESENT, **THRESHOLDS)
    assert seeds[:, 0, 1].tolist() == [True, True, True]
    assert seeds[1].all()


def test_inputs_are_not_modified_and_any_memory_order_is_accepted() -> None:
    cues, probs = draw_planes("1.2", "..."), draw_probs("112", "111")
    kept_cues, kept_probs = cues.copy(), probs.copy()
    cues.setflags(write=False)
    probs.setflags(write=False)
    expected = grow_seeds(cues, probs, PRESENT, **THRESHOLDS)
    seeds = grow_seeds(np.asfortranarray(cues), np.asfortranarray(probs), PRESENT, **THRESHOLDS)
    np.testing.assert_array_equal(seeds, expected)
    np.testing.assert_array_equal(cues, kept_cues)
    np.testing.assert_array_equal(probs, kept_probs)


def test_255_classes_are_exact() -> None:
    cues = np.zeros((255, 2, 3), bool)
    cues[254, 0, 0] = cues[200, 1, 0] = True
    probs = np.zeros((255, 2, 3), np.float32)
    probs[254, 0] = probs[200, 1] = 0.9
    seeds = grow_seeds(cues, probs, np.array([0, 200, 254]), **THRESHOLDS)
    assert seeds[254, 0].all()
    assert seeds[200, 1].all()
    assert seeds.sum() == 6


def test_a_label_map_grows_as_planes_do() -> None:
    cue, present = draw("1.2..", ".....", "0...."), np.array([0, 1])
    probs = draw_probs("11111", ".....", "00...", top=0.995)[present]
    seed = grow_label_map(cue, probs, present, **THRESHOLDS)
    np.testing.assert_array_equal(seed, draw("11211", ".....", "00..."))
    np.testing.assert_array_equal(cue, draw("1.2..", ".....", "0...."))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (0, 4)])
def test_thin_and_empty_pictures_work(size: tuple[int, int]) -> None:
    cues, probs = np.ones((2, *size), bool), np.full((2, *size), 0.5, np.float32)
    assert grow_seeds(cues, probs, np.array([0, 1]), **THRESHOLDS).all()
    cue = np.zeros(size, np.uint8)
    assert (grow_label_map(cue, probs, np.array([0, 1]), **THRESHOLDS) == 0).all()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"fg_threshold": 85.0}, ValueError, r"`fg_threshold` must be in \(0, 1\), got 85.0"),
        ({"bg_threshold": 0.0}, ValueError, r"`bg_threshold` must be in \(0, 1\), got 0.0"),
        ({"fg_threshold": float("nan")}, ValueError, r"`fg_threshold` must be in \(0, 1\), got nan"),
        ({"present": np.array([0, 3])}, ValueError, r"`present` must be ascending class ids in \[0, 3\)"),
        ({"present": np.array([1, 0])}, ValueError, r"`present` must be ascending .*got \[1, 0\]"),
        (
            {"present": np.array([], np.int64)},
            ValueError,
            r"`present` must be \(P,\) class ids, at least one",
        ),
        ({"cues": np.zeros((3, 2, 2), np.uint8)}, TypeError, r"`cues` must be bool, got uint8: pass"),
        ({"probs": np.zeros((3, 2, 2))}, TypeError, r"`probs` must be float32, got float64: pass"),
        ({"probs": np.zeros((3, 2, 3), np.float32)}, ValueError, r"one shape \(C, h, w\), got \(3, 2, 2\)"),
        ({"probs": np.full((3, 2, 2), np.nan, np.float32)}, ValueError, r"got 12 NaN"),
    ],
)
def test_errors_name_argument_rule_and_value(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"cues": np.zeros((3, 2, 2), bool), "probs": np.zeros((3, 2, 2), np.float32), "present": PRESENT}
    given |= {**THRESHOLDS, **changed}
    with pytest.raises(error, match=message):
        grow_seeds(given.pop("cues"), given.pop("probs"), given.pop("present"), **given)


def test_nan_of_an_absent_class_is_never_read() -> None:
    probs = draw_probs("11.")
    probs[2] = np.nan
    seeds = grow_seeds(draw_planes("1.."), probs, np.array([0, 1]), **THRESHOLDS)
    np.testing.assert_array_equal(seeds, draw_planes("11."))


def test_label_map_errors_name_the_argument() -> None:
    probs, present = np.zeros((1, 2, 2), np.float32), np.array([0])
    with pytest.raises(TypeError, match=r"`cue` must be \(h, w\) uint8, got \(2, 2\) int64"):
        grow_label_map(np.zeros((2, 2), np.int64), probs, present, **THRESHOLDS)
    with pytest.raises(ValueError, match=r"`probs` must have one plane .*\(1, 3, 2\), got \(1, 2, 2\)"):
        grow_label_map(np.zeros((3, 2), np.uint8), probs, present, **THRESHOLDS)


def test_batches_of_unequal_length_are_refused() -> None:
    cues, probs = np.zeros((2, 3, 2, 2), bool), np.zeros((2, 3, 2, 2), np.float32)
    with pytest.raises(ValueError, match="one entry per image, got 2, 2 and 1"):
        grow_seeds_batch(cues, probs, [PRESENT], **THRESHOLDS)
