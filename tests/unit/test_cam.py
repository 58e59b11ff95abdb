"""CAMs: present classes only, divided by their maximum, enlarged."""

from __future__ import annotations

import numpy as np

from dsrg.cam import normalise_cams
from dsrg.scaling import scale_maps

ACTIVATIONS = np.array([[[0, 2], [4, 1]], [[9, 9], [9, 9]], [[0.5, 0], [0, 0.25]]], np.float32)


def test_each_present_class_is_divided_by_its_own_maximum() -> None:
    cams = normalise_cams(ACTIVATIONS, np.array([True, False, True]))
    np.testing.assert_array_equal(cams, [[[0, 0.5], [1, 0.25]], [[1, 0], [0, 0.5]]])
    assert cams.dtype == np.float32


def test_the_activations_stay_as_they_are() -> None:
    before = ACTIVATIONS.copy()
    normalise_cams(ACTIVATIONS, np.array([True, True, True]))
    np.testing.assert_array_equal(before, ACTIVATIONS)


def test_a_class_that_is_active_nowhere_stays_zero() -> None:
    cams = normalise_cams(np.zeros((1, 2, 3), np.float32), np.array([True]))
    np.testing.assert_array_equal(cams, np.zeros((1, 2, 3)))


def test_a_picture_without_classes_has_no_cam() -> None:
    cams = normalise_cams(ACTIVATIONS, np.array([False, False, False]))
    assert cams.shape == (0, 2, 2)
    assert scale_maps(cams, (8, 4)).shape == (0, 8, 4)


def test_maps_are_enlarged_between_cell_centres() -> None:
    large = scale_maps(np.array([[[0, 1]]], np.float32), (2, 4))
    np.testing.assert_allclose(large, [[[0, 0.25, 0.75, 1]] * 2])
    assert large.dtype == np.float32


def test_height_and_width_are_not_swapped() -> None:
    maps = np.zeros((1, 2, 3), np.float32)
    maps[0, 1, 2] = 1
    large = scale_maps(maps, (4, 9))
    assert large.shape == (1, 4, 9)
    assert np.unravel_index(large[0].argmax(), (4, 9))[0] >= 2
