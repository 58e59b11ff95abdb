"""MLflow's layout, and that it never costs a stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks import tracking
from tasks.params import Params, read_params
from tasks.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore")  # mlflow's own imports warn, version by version


@pytest.fixture
def params(project_root: Path) -> Params:
    return read_params(project_root / "params.yaml")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Workspace(tmp_path)


def test_trainings_lie_below_their_study_and_killed_ones_go_on(workspace: Workspace, params: Params):
    from mlflow import MlflowClient

    with pytest.raises(KeyboardInterrupt), tracking.stage_run(workspace, params, "train@1") as killed:
        killed.log_params({"crf": {"iterations": 10}})
        for step in range(tracking.BUFFERED_METRICS + 10):
            killed.log_metrics({"loss": 1.0 / (step + 1)}, step=step)
        raise KeyboardInterrupt
    with tracking.stage_run(workspace, params, "train@1") as run:
        assert run.run_id == killed.run_id
        run.log_image("probe/a", np.zeros((4, 5, 3), np.uint8), step=1)
    with tracking.study_run(workspace, params) as study:
        study.log_metrics({"val/miou": 0.5}, step=1)
    client = MlflowClient(tracking.locate_tracking(workspace))
    child, parent = client.get_run(run.run_id), client.get_run(study.run_id)
    assert child.info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == study.run_id
    assert child.data.params == {"crf.iterations": "10"}
    assert len(client.get_metric_history(run.run_id, "loss")) == tracking.BUFFERED_METRICS + 10
    assert parent.data.params["train.lr"] == str(params.train.lr)
    assert client.get_experiment(parent.info.experiment_id).name == "synthetic"
    assert workspace.path("mlflow.db").exists()


def test_no_mlflow_is_one_warning(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuch://server")
    with tracking.stage_run(workspace, params, "train@1") as run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_params({"lr": 1})
    assert run.run_id is None
    assert capsys.readouterr().err.count("warning: MLflow does not work and is left out") == 1


def test_a_study_is_its_params_but_not_the_machine(params: Params):
    machine = params.model_copy(update={"compute": params.compute.model_copy(update={"workers": 3})})
    method = params.model_copy(update={"train": params.train.model_copy(update={"lr": 0.123})})
    assert tracking.digest_study(machine) == tracking.digest_study(params)
    assert tracking.digest_study(method) != tracking.digest_study(params)
