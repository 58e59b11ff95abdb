"""What DVC makes of a run's numbers: metrics, plots, the model; on a tiny run of the real stages."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_project import copy_project, run_dvc

SUMMARY = "metrics/summary.json"
COLUMNS = {
    "loss": {"step", "loss"},
    "miou_by_round": {"round", "pseudo_labels", "network", "network_crf"},
    "iou_by_class": {"class", "iou"},
    "label_quality": {"labels", "precision", "recall"},
}


def commit(root: Path, message: str) -> None:
    who = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    for arguments in (["add", "."], [*who, "commit", "-qm", message]):
        subprocess.run(["git", "-C", str(root), *arguments], check=True)


@pytest.fixture(scope="module")
def compared(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers of a run in a commit, and in the workspace those of a run whose last labels are better."""
    root = copy_project(tmp_path_factory.mktemp("compared") / "project")
    shutil.copy(tiny_run / "params.yaml", root)
    shutil.copytree(tiny_run / "metrics", root / "metrics")
    commit(root, "a run")
    summary = json.loads((root / SUMMARY).read_text())
    summary["rounds"]["2"]["pseudo_labels"]["miou_as_background"] = 0.875
    (root / SUMMARY).write_text(json.dumps(summary))
    plot = root / "metrics/plots/miou_by_round.json"
    rows = json.loads(plot.read_text())
    rows[-1]["pseudo_labels"] = 0.875
    plot.write_text(json.dumps(rows))
    return root


def test_metrics_are_the_scores_that_runs_are_compared_by(compared: Path):
    shown = json.loads(run_dvc(compared, "metrics", "show", "--json", SUMMARY))[""]["data"]
    summary = shown[SUMMARY]["data"]
    assert set(summary["rounds"]) == {"1", "2"}
    assert {"miou", "miou_crf", "share_of_reference"} <= set(summary["rounds"]["2"]["val"])
    assert {"foreground_precision", "foreground_recall"} <= set(summary["baseline"]["cues"])


def test_a_difference_is_one_line_a_number(compared: Path):
    lines = run_dvc(compared, "metrics", "diff").splitlines()
    assert len(lines) == 2
    name, value = "rounds.2.pseudo_labels.miou_as_background", "0.875"
    assert lines[1].split()[:2] == [SUMMARY, name]
    assert lines[1].split()[3] == value


@pytest.mark.parametrize("plot", sorted(COLUMNS))
def test_a_plot_draws_its_columns_for_every_revision(compared: Path, plot: str):
    text = run_dvc(compared, "plots", "diff", "--show-vega", "--targets", f"metrics/plots/{plot}.json")
    assert "<DVC_METRIC" not in text
    drawn = json.loads(text)
    rows = drawn["data"]["values"]
    assert {row["rev"] for row in rows} == {"HEAD", "workspace"}
    assert drawn["title"]["text"]
    used = set(list_fields(drawn))
    assert COLUMNS[plot] <= used
    made = {name for step in drawn.get("transform", []) for name in step.get("as", [])}
    assert used - made <= {*rows[0], "rev"}


def test_bars_of_shares_reach_from_0_to_1_in_the_order_of_the_rows(compared: Path):
    for plot in ("iou_by_class", "label_quality"):
        drawn = json.loads(run_dvc(compared, "plots", "show", "--show-vega", f"metrics/plots/{plot}.json"))
        encoding = drawn.get("spec", drawn)["encoding"]
        assert encoding["x"]["scale"] == {"domain": [0, 1]}
        assert encoding["y"]["sort"] is None


def test_all_plots_are_on_one_page(compared: Path):
    run_dvc(compared, "plots", "show", "--out", "drawn")
    page = (compared / "drawn" / "index.html").read_text()
    for plot in COLUMNS:
        assert f"metrics_plots_{plot}_json" in page


def list_fields(spec: Any) -> Iterator[str]:
    """List the columns that a Vega-Lite specification names, wherever it does."""
    if isinstance(spec, list):
        for item in spec:
            yield from list_fields(item)
    elif isinstance(spec, dict):
        for key, value in spec.items():
            if key in ("field", "loess", "on") and isinstance(value, str) and not value.startswith("mouse"):
                yield value
            elif key == "fold" or (key == "repeat" and isinstance(value, dict)):
                yield from value if key == "fold" else value["column"]
            elif key != "values":
                yield from list_fields(value)
