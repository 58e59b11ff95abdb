"""The vocabulary of label maps."""

from __future__ import annotations

import numpy as np
import pytest

from dsrg.labels import (
    BACKGROUND,
    IGNORE_INDEX,
    build_palette,
    check_class_names,
    collapse_planes,
    expand_label_map,
    list_present,
)


def test_present_classes_begin_with_background() -> None:
    assert list_present(np.array([False, True, True])).tolist() == [0, 2, 3]
    assert list_present(np.zeros(4, bool)).tolist() == [BACKGROUND]


def test_expanding_and_collapsing_are_inverse() -> None:
    label_map = np.array([[0, 1, 255], [3, 3, 2]], np.uint8)
    planes = expand_label_map(label_map, 4)
    assert planes.shape == (4, 2, 3)
    assert planes.sum() == 5
    assert np.array_equal(collapse_planes(planes), label_map)


def test_unlabelled_pixels_stand_in_no_plane() -> None:
    assert not expand_label_map(np.full((2, 2), IGNORE_INDEX, np.uint8), 254).any()


def test_the_highest_class_wins() -> None:
    planes = np.array([[[True, True]], [[True, False]], [[True, False]]])
    assert collapse_planes(planes).tolist() == [[2, 0]]


def test_palette_is_that_of_pascal_voc() -> None:
    """Aeroplane, bicycle, person (15), tv monitor (20) and the border, from the VOC devkit."""
    palette = build_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert palette[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class is named: give at least one foreground class"),
        ([f"c{i}" for i in range(255)], "255 classes named, but a uint8 label map holds at most 254"),
        (["cat", " "], r"class names at positions \[1\] are empty"),
        (["cat", "dog", "cat"], "class names given twice: cat"),
        (["cat", "a\nb", "\x1b[31m"], r"class names hold control characters: 'a\\nb', '\\x1b\[31m'"),
        (["cat", "Cat"], "class names differ only in case or accents' spelling: `cat` and `Cat`"),
        (["\u00e9", "e\u0301"], "class names differ only in case or accents' spelling"),
        (["cat", "Background"], "a class is called `Background`, as what is no class: rename it"),
    ],
)
def test_class_names_that_no_label_map_can_hold(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_class_names(names)


def test_254_classes_are_fine() -> None:
    check_class_names([f"c{i}" for i in range(254)])
