"""Which pictures are the best, the middle and the worst."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dsrg.metrics import count_pixels
from dsrg.ranking import measure_disagreement, rank_rows, score_picture


def test_a_picture_is_scored_over_its_own_classes() -> None:
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    label = np.array([[0, 2, 1, 1]], np.uint8)
    assert score_picture(count_pixels(truth, label, num_classes=3)) == pytest.approx((0.5 + 1.0) / 2)
    unknown = np.full((1, 4), 255, np.uint8)
    assert math.isnan(score_picture(count_pixels(unknown, label, num_classes=3)))


def test_groups_do_not_overlap_and_are_in_order() -> None:
    scores = {row: row / 10 for row in range(10)}
    ranked = rank_rows(scores, count=2, high_is_good=True)
    assert ranked == {"best": [9, 8], "median": [5, 4], "worst": [0, 1]}
    ranked = rank_rows(scores, count=2, high_is_good=False)
    assert ranked == {"best": [0, 1], "median": [4, 5], "worst": [9, 8]}


@pytest.mark.parametrize("number", range(8))
def test_few_pictures_are_shown_once(number: int) -> None:
    ranked = rank_rows(dict.fromkeys(range(number), 0.5), count=6, high_is_good=True)
    shown = [row for rows in ranked.values() for row in rows]
    assert len(shown) == len(set(shown))
    assert len(shown) >= min(number, 3)
    assert len(ranked["best"]) == min(1, number) if number < 6 else 2


def test_what_was_not_scored_is_left_out() -> None:
    ranked = rank_rows({0: float("nan"), 1: 0.2, 2: 0.4}, count=1, high_is_good=True)
    assert ranked == {"best": [2], "median": [], "worst": [1]}
    assert rank_rows({0: 0.5}, count=0, high_is_good=True) == {"best": [], "median": [], "worst": []}


def test_disagreement_counts_pixels() -> None:
    one = np.zeros((2, 5), np.uint8)
    other = one.copy()
    other[0, :3] = 7
    assert measure_disagreement(one, other) == pytest.approx(0.3)
    assert measure_disagreement(one, one) == 0.0
