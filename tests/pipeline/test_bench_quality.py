"""A row of the ablation, run for real by DVC in a folder of its own and told to MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_project import build_params, write_params
from toy_project import commit, copy_project

from bench.quality import __main__ as command
from bench.quality.data import DataSet, Size
from bench.quality.rows import CHAIN, REFERENCE
from bench.quality.run import Bench
from flows.run_folders import list_run_folders

TINY = Size("tiny", train=10, val=3, drawn=96, changes={"refine.crf.iterations": 3})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = copy_project(tmp_path / "project")
    write_params(build_params(), root)
    (root / "tasks" / "defaults.yaml").write_bytes((root / "params.yaml").read_bytes())
    commit(root)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return root


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own imports warn, version by version
def test_rows_share_what_they_have_in_common_and_tell_mlflow(project: Path) -> None:
    cues, growing = CHAIN[:2]
    before = (project / "params.yaml").read_bytes()
    bench = Bench.open(project, DataSet("synthetic", None), TINY)
    marks, ran, numbers = [], [], []
    for row, seed in ((cues, 0), (growing, 0), (REFERENCE, 0), (cues, 0)):
        marks.append(bench.configure(row, seed))
        lines: list[str] = []
        numbers.append(bench.run(row, seed, on_line=lines.append))
        said = (line.partition("Running stage '")[2] for line in lines)
        ran.append([words.partition("'")[0] for words in said if words])
    assert ran[0][0] == "ingest"
    assert {"classify", "cams", "cues", "train@1", "evaluate@1"} <= set(ran[0])
    assert ran[1] == ["train@1", "relabel@1", "refine@1", "evaluate@1"]
    assert ran[2] == ["reference"]
    assert ran[3] == []  # restored
    assert marks[0] == marks[3]
    assert len({*marks, bench.configure(cues, 1)}) == 4
    assert {**numbers[0], "seconds": 0} == {**numbers[3], "seconds": 0}
    assert {"cues", "pseudo_labels", "val", "val_crf"} <= set(numbers[1])
    assert all(0 <= value <= 100 for name, value in numbers[1].items() if name != "seconds")
    assert set(numbers[2]) == {"seconds", "val", "val_crf"}
    assert (project / "params.yaml").read_bytes() == before
    _check_mlflow(project)
    bench.close()
    assert list_run_folders(project) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_data_sets_are_measured_side_by_side_and_not_twice(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ROOT", project)
    monkeypatch.setattr(command, "RESULTS", project / "results.json")
    monkeypatch.setattr(command, "TABLE", project / "quality.md")
    monkeypatch.setitem(command.SIZES, "small", TINY)
    asked = ["--rows", "cues", "--seeds", "4", "--at-once", "2"]
    assert command.main(asked) == 0
    first = json.loads((project / "results.json").read_text(encoding="utf-8"))
    assert {(known, row, seed) for known in first for row in first[known] for seed in first[known][row]} == {
        ("synthetic tiny", "cues", "4"),
        ("defects-tiny tiny", "cues", "4"),
    }
    assert "## synthetic tiny" in (project / "quality.md").read_text(encoding="utf-8")
    assert list_run_folders(project) == []
    capsys.readouterr()
    assert command.main(asked) == 0
    assert capsys.readouterr().out.count("done before") == 2
    assert json.loads((project / "results.json").read_text(encoding="utf-8")) == first


def _check_mlflow(project: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'synthetic'")
    found = client.search_runs([experiment.experiment_id], "tags.`bench.row` = 'growing'")
    assert {run.data.tags["bench.seed"] for run in found} == {"0"}
    assert any("val/miou" in run.data.metrics for run in found)
