"""Estimates: near the two runs that were timed, and going where they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dsrg.store import Index
from tasks.estimates import estimate_run
from tasks.params import Params, expand_rounds, read_params
from tasks.schema import Round


@pytest.fixture
def params(project_root: Path) -> Params:
    """Params as they come, on two cores."""
    params = read_params(project_root / "params.yaml")
    return params.model_copy(update={"compute": params.compute.model_copy(update={"workers": 2})})


def build_index(train: int, val: int, height: int = 256, width: int = 256) -> Index:
    count = train + val
    sizes = np.tile(np.array([[height, width]], np.int32), (count, 1))
    splits = np.array(["train"] * train + ["val"] * val)
    ids = np.array([str(n) for n in range(count)])
    return Index(("cat",), ids, splits, sizes, sizes, np.ones((count, 1), bool))


def total(params: Params, index: Index, *, has_masks: bool = True) -> float:
    seconds = estimate_run(params, index, ingest_seconds=5, has_masks=has_masks)["seconds"]
    return float(seconds["total"])


def change(params: Params, section: str, **values: object) -> Params:
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


def test_the_demo_takes_what_the_readme_says(params: Params) -> None:
    assert 9 <= total(params, build_index(120, 40)) / 60 <= 14


def test_more_of_anything_takes_longer(params: Params) -> None:
    index = build_index(400, 120)
    before = total(params, index)
    assert total(params, build_index(800, 240)) > 1.5 * before
    assert total(change(params, "train", epochs=80), index) > 1.5 * before
    assert total(change(params, "backbone", name="vgg16"), index) > 3 * before
    assert total(change(params, "compute", workers=4), index) < before
    assert total(change(params, "reference", enabled=True), index) > before
    assert total(params, index, has_masks=False) < before
    third = {key: Round.model_validate(value) for key, value in expand_rounds(3).items()}
    assert total(params.model_copy(update={"rounds": third}), index) > before


def test_a_trunk_that_was_never_measured_is_said_so(params: Params) -> None:
    found = estimate_run(
        change(params, "backbone", name="timm:convnext_tiny"),
        build_index(9, 3),
        ingest_seconds=5,
        has_masks=True,
    )
    assert found["seconds"] is None
    assert "the rest was never measured with timm:convnext_tiny" in found["lines"][0]
