"""The CRF over all pairs of cells: equal to the sums written out in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from slow_crf import infer_slowly

from dsrg.crf import refine_batch
from dsrg.dense_field import refine_densely
from dsrg.objectives import refine_on_grid

SETTINGS: dict[str, Any] = {
    "iterations": 10,
    "bilateral_weight": 10.0,
    "bilateral_xy": 80 / 12,
    "bilateral_rgb": 13.0,
    "gaussian_weight": 3.0,
    "gaussian_xy": 0.5,
}


def draw(
    count: int = 2, classes: int = 4, height: int = 11, width: int = 9, seed: int = 0
) -> tuple[Any, Any, Any]:
    """Probabilities, pictures of coloured stripes, and image labels of a batch."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.5), (count, height, width)).transpose(0, 3, 1, 2)
    stripes = 60 + 120 * (np.arange(width) // 3 % 2)[None, None, :, None]
    pictures = np.clip(stripes + rng.normal(0, 10, (count, height, width, 3)), 0, 255).astype(np.uint8)
    image_labels = np.ones((count, classes - 1), bool)
    image_labels[0, 1] = False
    return (
        torch.from_numpy(probs.astype(np.float32)),
        torch.from_numpy(pictures),
        torch.from_numpy(image_labels),
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"gaussian_weight": 0.0}, {"bilateral_weight": 0.0}, {"gaussian_xy": 3.0, "iterations": 3}],
    ids=["both", "bilateral", "gaussian", "wide"],
)
def test_marginals_are_those_of_the_sums_in_float64(changes: dict[str, float]) -> None:
    settings = {**SETTINGS, **changes}
    probs, pictures, image_labels = draw()
    refined = refine_densely(probs, pictures, image_labels, **settings)
    for found, given, picture, own in zip(refined, probs, pictures, image_labels, strict=True):
        present = np.flatnonzero(np.concatenate([[True], own.numpy()]))
        expected = infer_slowly(given[present].double().numpy(), picture.double().numpy(), settings)
        np.testing.assert_allclose(found[present].numpy(), expected, rtol=0, atol=1e-7)
        assert not np.delete(found.numpy(), present, axis=0).any(), "absent classes stay at 0"


def test_the_lattice_approximates_it() -> None:
    probs, pictures, image_labels = draw(height=33, width=41)
    exact = refine_densely(probs, pictures, image_labels, **SETTINGS)
    presents = [np.flatnonzero(np.concatenate([[True], own.numpy()])) for own in image_labels]
    lattice = refine_batch(probs, pictures, presents, **SETTINGS)
    assert (exact.argmax(1) == lattice.argmax(1)).float().mean() > 0.9


def test_parts_of_a_batch_are_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, pictures, image_labels = draw(count=5)
    whole = refine_densely(probs, pictures, image_labels, **SETTINGS)
    monkeypatch.setattr("dsrg.dense_field._MOST_PAIRS", 1)
    parts = refine_densely(probs, pictures, image_labels, **SETTINGS)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", ["images", "labels", "numbers"])
def test_what_does_not_fit_is_refused(bad: str) -> None:
    probs, pictures, image_labels = draw()
    if bad == "images":
        pictures = pictures[:, :-1]
    elif bad == "labels":
        image_labels = image_labels[:, :-1]
    else:
        probs[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="must be finite" if bad == "numbers" else "must fit `probs`"):
        refine_densely(probs, pictures, image_labels, **SETTINGS)


def test_training_takes_the_lattice_on_a_cpu_and_all_pairs_where_asked() -> None:
    probs, pictures, image_labels = draw()
    images = pictures.permute(0, 3, 1, 2).float() / 255
    chosen = refine_on_grid(probs, images, image_labels, crf={**SETTINGS, "solver": "auto"})
    lattice = refine_on_grid(probs, images, image_labels, crf={**SETTINGS, "solver": "lattice"})
    dense = refine_on_grid(probs, images, image_labels, crf={**SETTINGS, "solver": "dense"})
    assert torch.equal(chosen, lattice)
    torch.testing.assert_close(dense, refine_densely(probs, pictures, image_labels, **SETTINGS))
    assert not torch.equal(dense, lattice)
