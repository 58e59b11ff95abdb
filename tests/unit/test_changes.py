"""Which params differ from the defaults, and that the defaults are those that the project ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.changes import DEFAULTS, Change, list_changes
from tasks.params import read_params


@pytest.fixture
def values() -> dict[str, Any]:
    return read_params(DEFAULTS).model_dump(mode="json")


def test_the_defaults_are_the_params_that_are_shipped(project_root: Path) -> None:
    same = DEFAULTS.read_text() == (project_root / "params.yaml").read_text()
    assert same, "params.yaml was changed for good? Then: cp params.yaml tasks/defaults.yaml"


def test_nothing_differs_from_itself(values: dict[str, Any]) -> None:
    assert list_changes(values) == []


def test_a_change_is_named_with_both_values_and_what_it_is(values: dict[str, Any]) -> None:
    values["train"]["crf"]["iterations"] = 5
    values["cams"]["scales"] = [1.0]
    values["rounds"] = {"1": {}}
    assert list_changes(values) == [
        Change("rounds", "2", "1", "rounds of train, relabel, refine"),
        Change("cams.scales", "[1.2, 1.8]", "[1.0]", "input scales that are averaged"),
        Change("train.crf.iterations", "10", "5", "mean-field iterations"),
    ]


def test_sections_that_are_not_there_are_not_compared(values: dict[str, Any]) -> None:
    assert list_changes({"train": {**values["train"], "lr": 1.0}}) == [
        Change("train.lr", "0.002", "1.0", "learning rate of the trunk at the first step")
    ]


def test_a_param_without_a_default_is_a_change() -> None:
    assert list_changes({"train": {"new": True}}) == [Change("train.new", "", "true", "")]
