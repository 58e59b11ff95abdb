"""The split that is made where a folder names none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsrg.sources.splits import choose_splits


def choose(labels: NDArray[np.bool_], groups: NDArray[np.int64], fraction: float) -> NDArray[np.str_]:
    return choose_splits([f"p{i}" for i in range(len(labels))], labels, groups, val_fraction=fraction)


def test_every_class_gives_its_share() -> None:
    labels = np.zeros((100, 3), bool)
    labels[:60, 0], labels[60:90, 1], labels[80:, 2] = True, True, True
    splits = choose(labels, np.arange(100), 0.2)
    assert (splits == "val").sum() == 20
    assert (labels[splits == "val"].sum(axis=0) > 0).all()
    assert (splits[:60] == "val").sum() == 12


def test_groups_stay_together_and_both_sides_are_filled() -> None:
    labels = np.ones((12, 1), bool)
    groups = np.arange(12) // 3
    splits = choose(labels, groups, 0.2)
    assert all(len(set(splits[groups == group])) == 1 for group in range(4))
    assert set(splits) == {"train", "val"}


def test_one_lonely_picture_is_for_training() -> None:
    assert choose(np.ones((1, 1), bool), np.arange(1), 0.5).tolist() == ["train"]


def test_the_split_does_not_depend_on_the_order_of_pictures() -> None:
    ids = [f"p{i}" for i in range(40)]
    labels = np.ones((40, 1), bool)
    forwards = choose_splits(ids, labels, np.arange(40), val_fraction=0.3)
    backwards = choose_splits(ids[::-1], labels, np.arange(40), val_fraction=0.3)
    assert dict(zip(ids, forwards, strict=True)) == dict(zip(ids[::-1], backwards, strict=True))


def test_a_class_beside_rarer_ones_only_keeps_a_training_picture() -> None:
    """Class 0 occurs in two pictures, each of which counts under a rarer class."""
    labels = np.zeros((42, 3), bool)
    labels[:2, 0], labels[0, 1], labels[1, 2] = True, True, True
    labels[2:22, 1], labels[22:, 2] = True, True
    for number in range(40):
        ids = [f"{number}-{i}" for i in range(42)]
        splits = choose_splits(ids, labels, np.arange(42), val_fraction=0.5)
        assert labels[splits == "train"].any(axis=0).all()
        assert 10 <= (splits == "val").sum() <= 22


def test_copies_of_one_picture_never_stand_on_both_sides() -> None:
    labels = np.ones((30, 1), bool)
    groups = np.array([0] * 10 + list(range(1, 21)))
    for number in range(20):
        ids = [f"{number}-{i}" for i in range(30)]
        splits = choose_splits(ids, labels, groups, val_fraction=0.2)
        assert len(set(splits[:10])) == 1
        assert (splits == "val").sum() in (6, 10)


def test_the_split_of_a_data_set_stays_what_it_was() -> None:
    """People compare runs over months: the rule may be written anew, its choice must not change."""
    rng = np.random.default_rng(0)
    labels = rng.random((60, 4)) < 0.3
    groups = rng.integers(0, 45, 60)
    splits = choose_splits([f"bird-{i}" for i in range(60)], labels, groups, val_fraction=0.25)
    assert np.flatnonzero(splits == "val").tolist() == [
        3,
        8,
        10,
        15,
        16,
        19,
        21,
        25,
        28,
        31,
        33,
        34,
        40,
        55,
        56,
    ]
