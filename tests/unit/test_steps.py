"""How many steps trainings take: by their epochs, but not fewer than a least number."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_project import build_params

from tasks.params import Params
from tasks.schema import Round, expand_rounds
from tasks.steps import count_classify_steps, count_reference_steps, count_train_steps


def build(rounds: int, **sections: dict[str, Any]) -> Params:
    params = build_params(
        classify={"epochs": 6, "min_steps": 100, "batch_size": 16},
        train={"epochs": 8, "min_steps": 240, "batch_size": 8},
        retrain={"epochs": 4, "min_steps": 120, **sections.get("retrain", {})},
    )
    chain = {key: Round.model_validate(value) for key, value in expand_rounds(rounds).items()}
    return params.model_copy(update={"rounds": chain, "final_round": str(rounds)})


@pytest.mark.parametrize(
    ("pictures", "classify", "first", "second"),
    [(10, 100, 240, 120), (400, 150, 400, 200), (240, 100, 240, 120)],
)
def test_few_pictures_are_seen_more_often(pictures: int, classify: int, first: int, second: int) -> None:
    params = build(2)
    assert count_classify_steps(params, pictures) == classify
    assert count_train_steps(params, "1", pictures) == first
    assert count_train_steps(params, "2", pictures) == second


def test_the_reference_takes_as_many_steps_as_led_to_the_last_weights() -> None:
    assert count_reference_steps(build(1), 10) == 240
    assert count_reference_steps(build(3), 10) == 240 + 2 * 120
    assert count_reference_steps(build(3), 400) == 400 + 2 * 200
    assert count_reference_steps(build(3, retrain={"init": "imagenet"}), 10) == 120
    assert count_reference_steps(build(1, retrain={"init": "imagenet"}), 10) == 240
