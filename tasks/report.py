"""Stage ``report``: every number of the run in one table, and the plots that go with it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsrg.plots import draw_class_plot, draw_confusion_plot, draw_loss_plot, draw_round_plot
from tasks import console, study
from tasks.params import Params
from tasks.plot_rows import LABELS, list_plots
from tasks.workspace import Workspace

SUMMARY = "metrics/summary.json"
PLOTS = "metrics/plots"
MLFLOW_COMMAND = "mlflow ui --backend-store-uri sqlite:///mlflow.db"
_POLICIES = {"as_background": "unlabelled_as_background", "excluded": "unlabelled_excluded"}
_SHORT = ("", "mIoU", "known", "fg P", "fg R", "cover", "of ref")
_COLUMNS = ("", "mIoU", "mIoU, labelled only", "fg precision", "fg recall", "coverage", "of reference")

Row = tuple[str, ...]


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Gather all metrics into a summary, a table and plots.

    Reads: ``metrics/*.json``, ``metrics/rounds/R/*.json``
    Writes: ``metrics/summary.json``, ``metrics/plots/*.json``, ``reports/summary.md``, ``reports/*.png``
    """
    found = read_metrics(workspace, params.round_keys)
    summary = summarise_run(found)
    rows = list_rows(summary)
    with workspace.stage("report", fingerprint={"metrics": found}) as work:
        folder = work.partial("reports")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        plots = draw_plots(found, folder)
        panels = list_panels(workspace, params.round_keys)
        text = write_page(found, rows, plots=plots, panels=panels)
        (folder / "summary.md").write_text(text, encoding="utf-8")
        workspace.write_json(SUMMARY, summary)
        for name, points in list_plots(found).items():
            workspace.write_json(f"{PLOTS}/{name}.json", points)
        work.publish("reports", "reports")
    study.log_study(params, workspace)
    print_scores(rows)
    console.say("report: reports/summary.md")
    for panel in panels:
        console.say(f"panels: {panel}")
    console.say(f"all runs: {MLFLOW_COMMAND}")


def print_scores(rows: Sequence[Row]) -> None:
    """Print the rows of :func:`list_rows` as a table that fits a narrow terminal."""
    if rows:
        console.print_table("labels (train) and network (val) against the true masks, %", _SHORT, rows)
        console.say(
            "known: mIoU of labelled pixels only · P, R: precision, recall · * best choice by the truth"
        )
    else:
        console.say("no true masks: no scores to show")


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


def write_page(
    found: Mapping[str, Any], rows: Sequence[Row], *, plots: Sequence[str], panels: Sequence[str]
) -> str:
    """Write the report as Markdown; links are relative to ``reports/``."""
    lines = ["# Report", ""]
    if rows:
        head = [name or "%" for name in _COLUMNS]
        lines += [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        baseline = found["baseline"]
        lines += [
            "",
            "All in percent. mIoU is over the classes with true pixels, from one confusion of the split. "
            "Unlabelled pixels count as background in the first column and are left out in the second.",
            "",
            f"\\* Chosen by the truth, to be the strongest baseline there is: threshold "
            f"{baseline['cam']['oracle_threshold']:g}, exponent {baseline['cam_crf']['oracle_exponent']:g} "
            f"of the background score (1 - CAM)^exponent, the CRF of `{baseline['cam_crf']['oracle_crf']}`. "
            "Numbers are rounds; the reference is the same net trained on the true masks.",
            "",
        ]
    else:
        lines += ["The source has no masks, so labels and network cannot be scored.", ""]
    if plots:
        lines += ["## Plots", "", *[f"![{Path(name).stem}]({name})" for name in plots], ""]
    if panels:
        lines += ["## Panels", "", *[f"![{panel}](../{panel})" for panel in panels], ""]
    lines += ["## All runs", "", f"    {MLFLOW_COMMAND}", ""]
    return "\n".join(lines)


def draw_plots(found: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw loss, mIoU by round, IoU by class and confusion into `folder`; return the file names."""
    names = []
    rounds = found["rounds"]
    curves = {key: stages["train"]["loss"] for key, stages in rounds.items()}
    if any(curves.values()):
        draw_loss_plot(folder / "loss.png", curves)
        names.append("loss.png")
    if found["baseline"].get("available"):
        lines = {
            "pseudo-labels (train)": [
                stages["evaluate"]["train"]["pseudo_labels"]["unlabelled_as_background"]["miou"]
                for stages in rounds.values()
            ],
            "network (val)": [stages["evaluate"]["val"]["raw"]["miou"] for stages in rounds.values()],
            "network + CRF (val)": [stages["evaluate"]["val"]["crf"]["miou"] for stages in rounds.values()],
        }
        levels = {
            "CAM (train)": found["baseline"]["cam"]["miou"],
            "CAM + CRF (train)": found["baseline"]["cam_crf"]["miou"],
        }
        if found["reference"]["available"]:
            levels["reference + CRF (val)"] = found["reference"]["crf"]["miou"]
        draw_round_plot(folder / "miou_by_round.png", list(rounds), lines, levels)
        bars = {"CAM + CRF (train)": found["baseline"]["cam_crf"]["iou"]}
        last = list(rounds.values())[-1]["evaluate"]
        bars["last pseudo-labels (train)"] = last["train"]["pseudo_labels"]["unlabelled_as_background"]["iou"]
        bars["last network + CRF (val)"] = last["val"]["crf"]["iou"]
        draw_class_plot(folder / "iou_by_class.png", bars)
        scored = last["val"]["crf"]
        draw_confusion_plot(folder / "confusion.png", list(scored["iou"]), scored["confusion"])
        names += ["miou_by_round.png", "iou_by_class.png", "confusion.png"]
    return names


def list_panels(workspace: Workspace, round_keys: Sequence[str]) -> list[str]:
    """List the sheets of panels of each round, relative to the workspace."""
    sheets = [f"data/rounds/{key}/panels/{split}.png" for key in round_keys for split in ("train", "val")]
    return [sheet for sheet in sheets if workspace.path(sheet).is_file()]


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
