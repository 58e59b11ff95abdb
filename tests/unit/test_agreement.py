"""Agreement with image-level labels: what it sees, and that it needs no mask."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dsrg.agreement import measure_areas, score_agreement
from tasks.summary import describe_agreement


def test_areas_are_shares_of_the_whole_picture() -> None:
    label_map = np.array([[0, 0, 1, 1], [2, 255, 255, 1]], np.uint8)
    assert measure_areas(label_map, num_classes=4).tolist() == [0.25, 0.375, 0.125, 0.0]


def test_agreement_by_hand() -> None:
    areas = np.array(
        [
            [0.6, 0.3, 0.1, 0.0],  # holds 1 and 3: the 2 is wrong, the 3 is missed
            [0.5, 0.0, 0.4995, 0.0005],  # holds 2 and 3: of the 3 there is less than a thousandth
            [1.0, 0.0, 0.0, 0.0],  # holds nothing
        ]
    )
    image_labels = np.array([[True, False, True], [False, True, True], [False, False, False]])
    found = score_agreement(areas, image_labels)
    assert found["precision"] == pytest.approx(0.8 / 0.9)
    assert found["recall"] == 0.5
    assert found["agreement"] == pytest.approx(2 * (8 / 9) * 0.5 / (8 / 9 + 0.5))


def test_confusing_classes_lowers_it_and_outlines_do_not() -> None:
    image_labels = np.eye(4, dtype=bool)
    right = np.hstack([np.full((4, 1), 0.7), 0.3 * np.eye(4)])
    larger = np.hstack([np.full((4, 1), 0.2), 0.8 * np.eye(4)])
    confused = np.hstack([np.full((4, 1), 0.7), 0.2 * np.eye(4) + 0.1 * np.eye(4)[[1, 2, 3, 0]]])
    wrong = np.hstack([np.full((4, 1), 0.7), 0.3 * np.eye(4)[[1, 2, 3, 0]]])
    scores = [score_agreement(areas, image_labels)["agreement"] for areas in (right, larger, confused, wrong)]
    assert scores[0] == scores[1] == pytest.approx(1)
    assert scores[0] > scores[2] > scores[3] == 0


def test_nothing_to_count_is_no_number() -> None:
    nothing = np.array([[1.0, 0.0]])
    assert math.isnan(score_agreement(nothing, np.array([[True]]))["precision"])
    assert math.isnan(score_agreement(nothing, np.array([[True]]))["agreement"])
    assert math.isnan(score_agreement(np.array([[0.5, 0.5]]), np.array([[False]]))["recall"])
    assert math.isnan(score_agreement(np.zeros((0, 3)), np.zeros((0, 2), bool))["agreement"])


def test_a_later_round_that_agrees_less_is_told() -> None:
    (only,) = describe_agreement({"agreement": {"1": 0.9, "2": 0.931}})
    assert only == (
        "The network agrees with the image-level labels of val to 90.0 % in round 1, 93.1 % in round 2: "
        "no mask needed."
    )
    assert len(describe_agreement({"agreement": {"1": 0.9, "2": 0.895}})) == 1  # as good as equal
    told = describe_agreement({"agreement": {"1": 0.9, "2": 0.91, "3": 0.88}})
    assert told[1].endswith("dsrg rounds 2, then dsrg run, ends with round 2.")
    assert describe_agreement({"agreement": {"1": None}}) == describe_agreement({}) == []
