"""The whole method through its doors: ``dsrg run`` with Prefect, DVC and MLflow, then ``dvc repro``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_project import build_params, hash_outputs, list_outputs, write_params
from toy_project import build_toy, copy_project, run_dsrg, run_dvc, take_bodies

# mlflow's own imports warn, version by version
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.filterwarnings("ignore")]


def test_the_whole_method_through_both_doors(tmp_path: Path) -> None:
    root = copy_project(tmp_path / "project")
    params = build_params()
    write_params(params, root)

    said = run_dsrg(root, "run")
    assert "CAM + CRF" in said
    assert "mlflow ui" in said
    summary = json.loads((root / "metrics" / "summary.json").read_text())
    assert summary
    before = hash_outputs(root, list_outputs(params))

    said = run_dsrg(root, "run")
    assert "UpToDate" in said
    assert "0 of" in said, "the second run had something to do"

    said = run_dvc(root, "repro")
    assert "Running stage" not in said
    assert hash_outputs(root, list_outputs(params)) == before

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiments = client.search_experiments(filter_string="name = 'synthetic'")
    runs = client.search_runs([experiments[0].experiment_id])
    names = {run.info.run_name for run in runs}
    assert {"classify", "train@1", "train@2", "reference"} <= {name.split(" ")[0] for name in names}, names
    study = [run for run in runs if "val/miou" in run.data.metrics]
    assert len(study) == 1
    steps = [point.step for point in client.get_metric_history(study[0].info.run_id, "val/miou")]
    assert steps == [1, 2], "the second run had nothing to add"
    tags = study[0].data.tags
    assert "prefect.flow_run_id" in tags
    lock = (root / "dvc.lock").read_text()
    assert tags["dvc.md5.train.2"].split()[-1] in lock
    dataset = study[0].inputs.dataset_inputs[0].dataset
    assert len(dataset.digest) == 36
    assert dataset.digest in lock
    train = next(run for run in runs if run.info.run_name == "train@1")
    assert train.data.tags["mlflow.parentRunId"] == study[0].info.run_id
    assert {"train/loss", "train/lr", "train/images_per_second", "system/cpu_utilization_percentage"} <= set(
        train.data.metrics
    )
    assert len(client.search_model_versions("name='synthetic'")) == 1

    # the other door, from nothing, in another place
    other = copy_project(tmp_path / "elsewhere" / "project")
    write_params(params, other)
    run_dvc(other, "repro")
    assert hash_outputs(other, list_outputs(params)) == before


@pytest.mark.parametrize("kind", ["archive", "repository"])
def test_a_machine_whose_git_knows_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """An unpacked archive runs as a repository does, which besides keeps its runs."""
    root = build_toy(tmp_path / "toy")
    (tmp_path / "home").mkdir()
    for name, value in (
        ("HOME", str(tmp_path / "home")),
        ("GIT_CONFIG_GLOBAL", os.devnull),
        ("GIT_CONFIG_SYSTEM", os.devnull),
    ):
        monkeypatch.setenv(name, value)
    if kind == "archive":
        shutil.rmtree(root / ".git")
    else:
        who = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
        for arguments in (["add", "."], [*who, "commit", "-qm", "start"]):
            subprocess.run(["git", *arguments], cwd=root, check=True)
    said = run_dsrg(root, "run")
    if kind == "archive":
        assert "not kept as a DVC experiment: the project is in no git repository" in said
    else:
        assert "kept as DVC experiment synthetic-r2-" in said
        assert "synthetic-r2-" in run_dvc(root, "exp", "list", "--name-only")
    assert take_bodies(root)
    assert "0 of" in run_dsrg(root, "run")
    run_dvc(root, "repro")
    assert take_bodies(root) == []
