"""The numbers of a run out of its metrics: the summary, and the table that every door shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks import console
from tasks.plot_rows import LABELS
from tasks.workspace import Workspace

SUMMARY = "metrics/summary.json"
COLUMNS = ("", "mIoU", "mIoU, labelled only", "fg precision", "fg recall", "coverage", "of reference")
SHORT = ("", "mIoU", "known", "fg P", "fg R", "cover", "of ref")
_POLICIES = {"as_background": "unlabelled_as_background", "excluded": "unlabelled_excluded"}
_ASTRAY = 0.01  # by how much a later round must agree less: two networks that are equally good differ by less

Row = tuple[str, ...]


def read_metrics(workspace: Workspace, round_keys: Sequence[str]) -> dict[str, Any]:
    """Read what the other stages measured: by stage, and by round for those of rounds."""
    found: dict[str, Any] = {
        stage: workspace.read_json(f"metrics/{stage}.json", stage=stage)
        for stage in ("ingest", "classify", "cues", "baseline", "reference")
    }
    found["rounds"] = {
        key: {
            stage: workspace.read_json(f"metrics/rounds/{key}/{stage}.json", stage=f"{stage}@{key}")
            for stage in ("train", "evaluate")
        }
        for key in round_keys
    }
    return found


def summarise_run(found: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the numbers worth comparing between runs; not a number is None."""
    reference = _summarise_val(found["reference"], None)
    summary: dict[str, Any] = {"available": bool(found["baseline"].get("available"))}
    summary["classifier"] = found["classify"].get("val", {})
    summary["agreement"] = {
        key: stages["evaluate"].get("image_labels", {}).get("raw", {}).get("agreement")
        for key, stages in found["rounds"].items()
    }
    if not summary["available"]:
        return summary
    baseline = found["baseline"]
    summary["baseline"] = {
        "cam_miou": baseline["cam"]["miou"],
        "cam_crf_miou": baseline["cam_crf"]["miou"],
        "cues": _summarise_labels(baseline["cues"]),
    }
    summary["reference"] = reference
    summary["rounds"] = {
        key: {
            **{
                kind: _summarise_labels(stages["evaluate"]["train"][kind])
                for kind in ("seeds", "pseudo_labels")
            },
            "val": _summarise_val(stages["evaluate"]["val"], reference),
        }
        for key, stages in found["rounds"].items()
    }
    last = summary["rounds"][list(summary["rounds"])[-1]]["pseudo_labels"]["miou_as_background"]
    summary["gain"] = {
        "pseudo_labels_over_cam": _subtract(last, baseline["cam"]["miou"]),
        "pseudo_labels_over_cam_crf": _subtract(last, baseline["cam_crf"]["miou"]),
    }
    return summary


def list_rows(summary: Mapping[str, Any]) -> list[Row]:
    """List the rows of the table; none where nothing could be scored."""
    if not summary["available"]:
        return []
    baseline = summary["baseline"]
    rows = [
        _row("train CAM *", baseline["cam_miou"]),
        _row("train CAM + CRF *", baseline["cam_crf_miou"]),
        _label_row("train cues", baseline["cues"]),
    ]
    for key, scores in summary["rounds"].items():
        rows += [
            _label_row(f"train {key} {LABELS[kind]}", scores[kind]) for kind in ("seeds", "pseudo_labels")
        ]
    for key, scores in summary["rounds"].items():
        val = scores["val"]
        rows.append(_row(f"val {key} network", val["miou"], share=val["share_of_reference"]))
        rows.append(_row(f"val {key} network + CRF", val["miou_crf"], share=val["share_of_reference_crf"]))
    if summary["reference"]:
        rows.append(_row("val reference", summary["reference"]["miou"]))
        rows.append(_row("val reference + CRF", summary["reference"]["miou_crf"]))
    return rows


def describe_agreement(summary: Mapping[str, Any]) -> list[str]:
    """Describe how well each round agrees with the image-level labels of val, and which round that favours.

    Returns
    -------
    list of str
        Sentences; none where no val picture has a label.
    """
    rounds = {key: value for key, value in summary.get("agreement", {}).items() if value is not None}
    if not rounds:
        return []
    values = ", ".join(f"{100 * value:.1f} % in round {key}" for key, value in rounds.items())
    sentences = [f"The network agrees with the image-level labels of val to {values}: no mask needed."]
    best, last = max(rounds, key=lambda key: rounds[key]), list(rounds)[-1]
    if rounds[best] - rounds[last] > _ASTRAY:
        sentences.append(
            f"By that, later rounds went astray: dsrg rounds {best}, then dsrg run, ends with round {best}."
        )
    return sentences


def print_scores(summary: Mapping[str, Any]) -> None:
    """Print the rows of :func:`list_rows` as a table that fits a narrow terminal, and the agreement."""
    rows = list_rows(summary)
    if rows:
        console.print_table("labels (train) and network (val) against the true masks, %", SHORT, rows)
        console.say(
            "known: mIoU of labelled pixels only · P, R: precision, recall · * best choice by the truth"
        )
    else:
        console.say("no true masks: no scores to show")
    for sentence in describe_agreement(summary):
        console.say(sentence)


def _summarise_labels(found: Mapping[str, Any]) -> dict[str, float | None]:
    return {
        **{f"miou_{short}": found[key]["miou"] for short, key in _POLICIES.items()},
        "coverage": found["all"]["coverage"],
        **{
            f"{group}_{measure}": found[group][measure]
            for group in ("foreground", "background")
            for measure in ("precision", "recall")
        },
    }


def _summarise_val(found: Mapping[str, Any], reference: Mapping[str, Any] | None) -> dict[str, float | None]:
    if "raw" not in found:
        return {}
    scores = {"miou": found["raw"]["miou"], "miou_crf": found["crf"]["miou"]}
    if reference is None:
        return scores
    return {
        **scores,
        "share_of_reference": _divide(scores["miou"], reference.get("miou")),
        "share_of_reference_crf": _divide(scores["miou_crf"], reference.get("miou_crf")),
    }


def _label_row(name: str, scores: Mapping[str, float | None]) -> Row:
    return _row(
        name,
        scores["miou_as_background"],
        excluded=scores["miou_excluded"],
        precision=scores["foreground_precision"],
        recall=scores["foreground_recall"],
        coverage=scores["coverage"],
    )


def _row(
    name: str,
    miou: float | None,
    *,
    excluded: float | None = None,
    precision: float | None = None,
    recall: float | None = None,
    coverage: float | None = None,
    share: float | None = None,
) -> Row:
    values = (miou, excluded, precision, recall, coverage, share)
    return (name, *("" if value is None else f"{100 * value:.1f}" for value in values))


def _divide(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _subtract(value: float | None, base: float | None) -> float | None:
    return value - base if value is not None and base is not None else None
