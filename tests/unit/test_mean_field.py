"""The CRF's own solver against pydensecrf, and what pydensecrf lacks: threads, kept lattices, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_data import torch_threads

from dsrg.crf import refine_batch, refine_probs, refine_stack
from dsrg.lattice import build_lattice

DEEPLAB: dict[str, Any] = {
    "iterations": 10,
    "bilateral_weight": 4.0,
    "bilateral_xy": 49.0,
    "bilateral_rgb": 5.0,
    "gaussian_weight": 3.0,
    "gaussian_xy": 3.0,
}
OFFICIAL = {**DEEPLAB, "bilateral_weight": 10.0, "bilateral_xy": 80.0, "bilateral_rgb": 13.0}
TRAINING = {**OFFICIAL, "bilateral_xy": 6.67, "gaussian_xy": 0.25}


def draw(
    classes: int, height: int, width: int, *, noise: float = 8.0, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Soft blobs of every class over a picture of coloured stripes with noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    logits = np.stack(
        [
            3 * np.sin(rows / (5 + c) + rng.uniform(0, 6)) * np.cos(columns / (7 + c) + rng.uniform(0, 6))
            for c in range(classes)
        ]
    )
    probs = np.exp(logits) / np.exp(logits).sum(axis=0)
    stripes = 60 + 100 * (np.sin(rows / 6)[..., None] * np.array([1, 0.5, -1]) > 0.2)
    picture = np.clip(stripes + rng.normal(0, noise, (height, width, 3)), 0, 255).astype(np.uint8)
    return probs.astype(np.float32), picture


@pytest.mark.parametrize("settings", [DEEPLAB, OFFICIAL], ids=["deeplab", "official"])
@pytest.mark.parametrize("classes", [2, 3, 4, 5, 8])
def test_pictures_get_the_labels_that_pydensecrf_gives_them(settings: dict[str, Any], classes: int) -> None:
    probs, picture = draw(classes, 97, 161)
    ours = refine_probs(probs, picture, **settings)
    theirs = refine_probs(probs, picture, **settings, solver="pydensecrf")
    assert (ours.argmax(axis=0) == theirs.argmax(axis=0)).mean() >= 0.9999
    # mean fields that are torn between two classes multiply rounding errors, so a few pixels may differ more
    assert np.quantile(abs(ours - theirs), 0.999) < 1e-3
    np.testing.assert_allclose(ours.sum(axis=0), 1, atol=2e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (257, 1), (41, 41)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    probs, picture = draw(3, *size)
    ours = refine_probs(probs, picture, **TRAINING)
    np.testing.assert_allclose(ours, refine_probs(probs, picture, **TRAINING, solver="pydensecrf"), atol=5e-3)


@pytest.mark.parametrize("missing", ["bilateral_weight", "gaussian_weight"])
def test_a_term_of_no_weight_is_left_out(missing: str) -> None:
    probs, picture = draw(3, 40, 60)
    settings = {**OFFICIAL, missing: 0.0}
    ours = refine_probs(probs, picture, **settings)
    np.testing.assert_allclose(ours, refine_probs(probs, picture, **settings, solver="pydensecrf"), atol=2e-3)


def test_a_picture_of_noise_whose_vertices_outgrow_the_first_table() -> None:
    probs, picture = draw(2, 120, 120, noise=60.0)
    settings = {**DEEPLAB, "bilateral_rgb": 3.0}
    features = np.concatenate([np.mgrid[:120, :120] / 49, picture.transpose(2, 0, 1) / 3])
    lattice = build_lattice(features.reshape(5, -1).astype(np.float32))
    assert lattice.neighbours.shape[2] > 1 << 14, "or this tests nothing"
    ours = refine_probs(probs, picture, **settings)
    theirs = refine_probs(probs, picture, **settings, solver="pydensecrf")
    assert (ours.argmax(axis=0) == theirs.argmax(axis=0)).mean() >= 0.9999


def test_a_lattice_holds_every_vertex_once_and_weighs_points_between_theirs() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 2, (5, 1000)).astype(np.float32)
    corners, weights, neighbours = build_lattice(features)
    vertices = neighbours.shape[2]
    assert set(np.unique(corners)) == set(range(vertices))
    assert all(len(set(row)) == 6 for row in corners.tolist()), "the corners of a simplex differ"
    assert weights.min() >= -1e-5
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    after, before = neighbours[:, 0], neighbours[:, 1]
    for axis in range(6):
        known = after[axis] < vertices
        np.testing.assert_array_equal(before[axis][after[axis][known]], np.flatnonzero(known))


def test_pictures_between_do_not_change_a_result() -> None:
    first, other, flat = draw(3, 50, 70, seed=1), draw(2, 50, 70, seed=2), draw(3, 70, 50, seed=3)
    expected = refine_probs(*first, **DEEPLAB)
    refine_probs(*other, **OFFICIAL)
    refine_probs(*flat, **DEEPLAB)
    np.testing.assert_array_equal(refine_probs(*first, **DEEPLAB), expected)


def test_a_stack_is_each_of_its_maps() -> None:
    probs, picture = draw(3, 50, 70)
    stack = np.stack([probs, probs[::-1], np.sqrt(probs)])
    refined = refine_stack(stack, picture, **DEEPLAB)
    for one, expected in zip(refined, stack, strict=True):
        np.testing.assert_array_equal(one, refine_probs(expected, picture, **DEEPLAB))


def test_a_batch_in_threads_is_each_of_its_pictures() -> None:
    drawn = [draw(4, 41, 41, seed=seed) for seed in range(9)]
    probs, pictures = np.stack([one for one, _ in drawn]), np.stack([picture for _, picture in drawn])
    presents = [np.array([0, 1 + seed % 3]) for seed in range(9)]
    refined = refine_batch(probs, pictures, presents, **TRAINING)
    for number, present in enumerate(presents):
        expected = refine_probs(probs[number, present], pictures[number], **TRAINING)
        np.testing.assert_array_equal(refined[number, present], expected)
        assert not np.delete(refined[number], present, axis=0).any()


def test_a_crf_too_narrow_for_the_lattice_is_refused_with_a_way_out() -> None:
    probs, picture = draw(2, 20, 20)
    with pytest.raises(
        ValueError, match=r"`bilateral_rgb` 0.1 are too small .* 20 x 20 .* solver pydensecrf"
    ):
        refine_probs(probs, picture, **{**DEEPLAB, "bilateral_rgb": 0.1})


@pytest.mark.parametrize("solver", ["lattice", "pydensecrf"])
def test_pictures_that_must_not_be_written_to_are_read(solver: Any) -> None:
    probs, picture = draw(2, 20, 30)
    expected = refine_probs(probs, picture, **DEEPLAB, solver=solver)
    turned = np.ascontiguousarray(picture.transpose(1, 0, 2)).transpose(1, 0, 2)
    for locked in (probs, picture, turned):
        locked.flags.writeable = False
    np.testing.assert_array_equal(refine_probs(probs, picture, **DEEPLAB, solver=solver), expected)
    np.testing.assert_array_equal(refine_probs(probs, turned, **DEEPLAB, solver=solver), expected)


def test_torch_keeps_its_number_of_threads() -> None:
    """Or training would go on with another number, and in other last digits."""
    with torch_threads(1):
        probs, picture = draw(2, 20, 30)
        present = np.array([0, 1])
        refine_batch(np.stack([probs] * 4), np.stack([picture] * 4), [present] * 4, **TRAINING)
        assert torch.get_num_threads() == 1
