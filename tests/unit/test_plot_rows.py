"""Rows that DVC draws."""

from __future__ import annotations

from tasks.plot_rows import list_plots

CURVES = {
    "1": {"train": {"loss": [{"step": 2, "loss": 3.0}, {"step": 4, "loss": 2.0}]}},
    "2": {"train": {"loss": [{"step": 2, "loss": 1.0}]}},
}


def test_the_loss_goes_on_from_round_to_round():
    found = {"rounds": {key: {**stages, "evaluate": {"available": False}} for key, stages in CURVES.items()}}
    assert list_plots(found)["loss"] == [
        {"step": 2, "loss": 3.0, "round": 1},
        {"step": 4, "loss": 2.0, "round": 1},
        {"step": 6, "loss": 1.0, "round": 2},
    ]


def test_without_truth_there_are_no_scores_to_draw():
    found = {"rounds": {"1": {**CURVES["1"], "evaluate": {"available": False}}}}
    plots = list_plots(found)
    assert {name for name, rows in plots.items() if not rows} == {
        "miou_by_round",
        "iou_by_class",
        "label_quality",
    }
