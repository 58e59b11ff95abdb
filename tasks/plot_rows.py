"""Rows that DVC draws: one flat list a plot, the same columns whatever the number of rounds.

``dvc plots show`` and ``dvc plots diff`` draw a list of rows by naming two of its columns; several
revisions become several lines of one picture. So a plot's file has the same name in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LABELS = {"cues": "cues", "seeds": "seeds", "pseudo_labels": "pseudo-labels"}
Rows = list[dict[str, Any]]


def list_plots(found: Mapping[str, Any]) -> dict[str, Rows]:
    """List the rows of every plot: loss by step, mIoU by round, IoU by class, precision of labels.

    Parameters
    ----------
    found : mapping
        All metrics of a run, as :func:`tasks.report.read_metrics` reads them.

    Returns
    -------
    dict of str to list of dict
        By file name, without suffix. A plot of scores holds no row where there is no truth.
    """
    scored = {key: stages["evaluate"] for key, stages in found["rounds"].items() if _is_scored(stages)}
    return {
        "loss": list(_list_losses(found)),
        "miou_by_round": [_describe_round(key, scores) for key, scores in scored.items()],
        "iou_by_class": _list_classes(list(scored.values())[-1]) if scored else [],
        "label_quality": _list_quality(found, scored),
    }


def _is_scored(stages: Mapping[str, Any]) -> bool:
    return bool(stages["evaluate"]["available"])


def _list_losses(found: Mapping[str, Any]) -> Rows:
    """Chain the rounds' curves: steps count on from round to round."""
    rows: Rows = []
    before = 0
    for key, stages in found["rounds"].items():
        curve = stages["train"]["loss"]
        rows += [
            {"step": before + point["step"], "loss": point["loss"], "round": int(key)} for point in curve
        ]
        before += curve[-1]["step"] if curve else 0
    return rows


def _describe_round(key: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "round": int(key),
        "pseudo_labels": scores["train"]["pseudo_labels"]["unlabelled_as_background"]["miou"],
        "network": scores["val"]["raw"]["miou"],
        "network_crf": scores["val"]["crf"]["miou"],
    }


def _list_classes(last: Mapping[str, Any]) -> Rows:
    return [{"class": name, "iou": value} for name, value in last["val"]["crf"]["iou"].items()]


def _list_quality(found: Mapping[str, Any], scored: Mapping[str, Mapping[str, Any]]) -> Rows:
    """List precision and recall of the foreground, from the cues to the last pseudo-labels."""
    if not scored:
        return []
    steps = [("cues", found["baseline"]["cues"])]
    steps += [
        (f"{LABELS[kind]} {key}", scores["train"][kind])
        for key, scores in scored.items()
        for kind in ("seeds", "pseudo_labels")
    ]
    return [
        {"labels": name, **{measure: scores["foreground"][measure] for measure in ("precision", "recall")}}
        for name, scores in steps
    ]
