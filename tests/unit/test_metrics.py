"""Scores on label maps small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsrg.labels import IGNORE_INDEX
from dsrg.metrics import (
    CueQuality,
    compute_average_precision,
    compute_iou,
    count_confusion,
    count_pixels,
    mean_iou,
    score_classifier,
    settle_unlabelled,
)


def draw(*rows: str) -> NDArray[np.uint8]:
    return np.array([[IGNORE_INDEX if char == "." else int(char) for char in row] for row in rows], np.uint8)


TRUTH = draw("0011", "0022", "...2")
GIVEN = draw("0.11", "01.2", "0121")


def test_unlabelled_pixels_have_a_column_and_unknown_truth_is_left_out() -> None:
    counts = count_pixels(TRUTH, GIVEN, num_classes=4)
    np.testing.assert_array_equal(
        counts, [[2, 1, 0, 0, 1], [0, 2, 0, 0, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]]
    )


def test_the_policy_decides_what_unlabelled_pixels_are() -> None:
    as_background = count_confusion(TRUTH, GIVEN, num_classes=3, unlabelled="background")
    np.testing.assert_array_equal(as_background, [[3, 1, 0], [0, 2, 0], [1, 1, 1]])
    excluded = count_confusion(TRUTH, GIVEN, num_classes=3, unlabelled="excluded")
    np.testing.assert_array_equal(excluded, [[2, 1, 0], [0, 2, 0], [0, 1, 1]])


def test_a_class_that_was_never_hit_counts_as_zero_and_one_without_truth_not_at_all() -> None:
    confusion = np.array([[4, 0, 0], [2, 0, 2], [0, 0, 0]])
    np.testing.assert_array_equal(compute_iou(confusion), [4 / 6, 0.0, np.nan])
    assert mean_iou(confusion) == pytest.approx(1 / 3)


def test_no_truth_at_all_is_not_a_number() -> None:
    assert np.isnan(mean_iou(np.zeros((3, 3), np.int64)))


def test_quality_counts_background_and_foreground_apart() -> None:
    quality = CueQuality(3)
    quality.add(TRUTH, GIVEN)
    found = quality.summarise()
    assert found["background"] == {"coverage": 2 / 9, "precision": 1.0, "recall": 0.5}
    assert found["foreground"] == {"coverage": 5 / 9, "precision": 3 / 5, "recall": 3 / 5}
    assert found["all"] == {"coverage": 7 / 9, "precision": 5 / 7, "recall": 5 / 9}


def test_pictures_add_up() -> None:
    one, both = CueQuality(3), CueQuality(3)
    one.add(TRUTH, GIVEN)
    both.add_counts(one.counts)
    both.add(TRUTH, GIVEN)
    np.testing.assert_array_equal(both.counts, 2 * one.counts)
    assert both.summarise() == one.summarise()


def test_quality_of_nothing_labelled() -> None:
    quality = CueQuality(2)
    quality.add(draw("01"), draw(".."))
    found = quality.summarise()["foreground"]
    assert found["coverage"] == 0.0
    assert np.isnan(found["precision"])
    assert found["recall"] == 0.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ignored_pixels_never_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), (6, 5))
    given_map = rng.choice(np.array([0, 1, 2, 255], np.uint8), (6, 5))
    changed = np.where(truth == 255, rng.choice(np.array([0, 1, 2, 255], np.uint8), (6, 5)), given_map)
    counts = count_pixels(truth, given_map, num_classes=3)
    np.testing.assert_array_equal(counts, count_pixels(truth, changed, num_classes=3))
    assert counts.sum() == (truth != 255).sum()
    for c in range(3):
        both = ((truth == c) & (given_map == c)).sum()
        either = (((truth == c) | (given_map == c)) & (truth != 255) & (given_map != 255)).sum()
        iou = compute_iou(settle_unlabelled(counts, unlabelled="excluded"))[c]
        if ((truth == c) & (given_map != 255)).any():
            assert iou == pytest.approx(both / either)


def test_errors_name_the_argument() -> None:
    with pytest.raises(
        ValueError, match=r"`label_map` must have the size of the truth \(1, 2\), got \(1, 3\)"
    ):
        count_pixels(draw("01"), draw("010"), num_classes=2)
    with pytest.raises(
        ValueError, match="`label_map` must hold ids below the number of classes, or 255, got 7"
    ):
        count_pixels(draw("01"), draw("07"), num_classes=2)
    with pytest.raises(ValueError, match="`gt_label` must hold ids below"):
        count_pixels(draw("03"), draw("01"), num_classes=2)
    with pytest.raises(ValueError, match="`unlabelled` must be one of background, excluded, got 'bg'"):
        count_confusion(draw("01"), draw("01"), num_classes=2, unlabelled="bg")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"`scores` must be \(N, K\) like `image_labels` \(1, 3\), got \(1, 2\)"
    ):
        score_classifier(np.zeros((1, 2), np.float32), np.zeros((1, 3), bool))


def test_a_classifier_is_scored_by_precision_and_by_its_highest_class() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.7, 0.0], [0.3, 0.6, 0.1], [0.2, 0.4, 0.3]], np.float32)
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], bool)
    found = score_classifier(scores, labels)
    ap = compute_average_precision(scores, labels)
    np.testing.assert_allclose(ap, [5 / 6, 1.0, np.nan], rtol=1e-6)
    assert found["map"] == pytest.approx((5 / 6 + 1) / 2)
    assert found["accuracy"] == 0.5
    assert found["top1"] == pytest.approx(2 / 3)


def test_a_classifier_without_pictures_has_no_scores() -> None:
    found = score_classifier(np.zeros((0, 2), np.float32), np.zeros((0, 2), bool))
    assert np.isnan([found["map"], found["accuracy"], found["top1"]]).all()
