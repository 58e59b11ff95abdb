"""Stage ``report``: every number of the run in one table and one page, and the plots that go with them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsrg.plots import draw_class_plot, draw_confusion_plot, draw_loss_plot, draw_round_plot
from tasks import console, study
from tasks.page import PAGE, build_page
from tasks.params import Params
from tasks.plot_rows import list_plots
from tasks.summary import (
    COLUMNS,
    SUMMARY,
    Row,
    describe_agreement,
    list_rows,
    print_scores,
    read_metrics,
    summarise_run,
)
from tasks.workspace import Workspace

PLOTS = "metrics/plots"
MLFLOW_COMMAND = "mlflow ui --backend-store-uri sqlite:///mlflow.db"


def run(params: Params, workspace: Workspace, *, round_key: str | None = None) -> None:
    """Gather all metrics into a summary, a table, plots and a page.

    Reads: ``metrics/*.json``, ``metrics/rounds/R/*.json``, ``data/rounds/R/panels`` of the last round
    Writes: ``metrics/summary.json``, ``metrics/plots/*.json``, ``reports/summary.md``,
    ``reports/report.html``, ``reports/*.png``; and ``report.html``, which is no result
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
        (folder / PAGE).write_text(build_page(params, found, workspace), encoding="utf-8")
        workspace.write_json(SUMMARY, summary)
        for name, points in list_plots(found).items():
            workspace.write_json(f"{PLOTS}/{name}.json", points)
        work.publish("reports", "reports")
    study.log_study(params, workspace)
    print_scores(summary)
    console.say(f"report: {PAGE}, reports/summary.md")
    for panel in panels:
        console.say(f"panels: {panel}")
    console.say(f"all runs: {MLFLOW_COMMAND}")


def write_page(
    found: Mapping[str, Any], rows: Sequence[Row], *, plots: Sequence[str], panels: Sequence[str]
) -> str:
    """Write the report as Markdown; links are relative to ``reports/``."""
    lines = ["# Report", ""]
    if rows:
        head = [name or "%" for name in COLUMNS]
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
    if sentences := describe_agreement(summarise_run(found)):
        lines += [" ".join(sentences), ""]
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
