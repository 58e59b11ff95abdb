"""CAMs: present classes only, divided by their maximum, enlarged."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dsrg.cam import normalise_cams, spread_cams
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


def paint_object(height: int = 6, width: int = 8) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Features of an object, 4 rows by 3 columns, on other surroundings: ``(2, H, W)`` and its mask."""
    mask = np.zeros((height, width), bool)
    mask[1:5, 2:5] = True
    return np.stack([mask, ~mask]).astype(np.float32), mask


def test_a_cam_spreads_over_what_looks_alike() -> None:
    features, mask = paint_object()
    cam = np.zeros((1, 6, 8), np.float32)
    cam[0, 1, 2] = 1
    cam[0, 0, 0] = 0.2
    spread = spread_cams(cam, [features], power=2.0)
    np.testing.assert_allclose(spread[0], mask, atol=1e-5)
    assert spread.dtype == np.float32


def test_spreading_is_one_step_of_a_random_walk() -> None:
    """Against the rule written as a loop over pairs of cells, two maps, two groups of features."""
    rng = np.random.default_rng(0)
    cams = rng.random((2, 3, 4), dtype=np.float32)
    groups = [rng.normal(size=(channels, 3, 4)).astype(np.float32) for channels in (5, 2)]
    vectors = []
    for cell in np.ndindex(3, 4):
        parts = [maps[:, cell[0], cell[1]] - maps.mean(axis=(1, 2)) for maps in groups]
        vectors.append(np.concatenate([part / np.linalg.norm(part) for part in parts]) / np.sqrt(2))
    expected = np.zeros((2, 12))
    for target in range(12):
        weights = np.array([max(vectors[target] @ vectors[source], 0) ** 3 for source in range(12)])
        expected[:, target] = cams.reshape(2, 12) @ weights / weights.sum()
    low, high = expected.min(axis=1, keepdims=True), expected.max(axis=1, keepdims=True)
    spread = spread_cams(cams, groups, power=3.0)
    np.testing.assert_allclose(spread.reshape(2, 12), (expected - low) / (high - low), atol=1e-4)


def test_spreading_works_on_a_coarser_grid_and_leaves_the_cams_alone() -> None:
    features, mask = paint_object()
    cam = np.repeat(np.repeat(mask[None].astype(np.float32), 2, axis=1), 2, axis=2)
    before = cam.copy()
    spread = spread_cams(cam, [features], power=2.0)
    assert spread.shape == (1, 12, 16)
    assert spread.min() == 0
    assert spread.max() == 1
    np.testing.assert_array_equal(cam, before)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_flat_cam_or_flat_features_stay_finite(value: float) -> None:
    flat = np.full((1, 3, 3), value, np.float32)
    features = np.ones((2, 3, 3), np.float32)
    np.testing.assert_array_equal(spread_cams(flat, [features], power=2.0), np.zeros((1, 3, 3)))
    peak = flat * 0
    peak[0, 1, 1] = 1
    np.testing.assert_array_equal(spread_cams(peak, [features], power=2.0), peak)


def test_nothing_spreads_where_nothing_is_present() -> None:
    features, _ = paint_object()
    assert spread_cams(np.zeros((0, 6, 8), np.float32), [features], power=2.0).shape == (0, 6, 8)


def test_a_power_of_zero_is_refused() -> None:
    features, _ = paint_object()
    with pytest.raises(ValueError, match="power"):
        spread_cams(np.zeros((1, 6, 8), np.float32), [features], power=0.0)
