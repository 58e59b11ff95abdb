"""MLflow's layout, and that a dead MLflow costs neither a stage nor what it was to be told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as Stored
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from tasks import tracking
from tasks.params import Params, expand_rounds, read_params
from tasks.tracking_places import locate_tracking
from tasks.tracking_spool import FOLDER
from tasks.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore")  # mlflow's own imports warn, version by version


@pytest.fixture
def params(project_root: Path) -> Params:
    return read_params(project_root / "params.yaml")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow: Path) -> Workspace:
    for name in ("MLFLOW_TRACKING_URI", "DSRG_TRACKING_ROOT", "DSRG_FLOW_RUN_ID", "DSRG_FLOW_RUN_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracking, "SYSTEM_SECONDS", 0.05)
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return Workspace(tmp_path)


class Line:
    """The line to MLflow, which a test cuts and mends."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch, self._reach, self._write = patch, tracking.reach, tracking.write_entry

    def cut(self) -> None:
        def fail(*_: Any) -> None:
            raise ConnectionError("nobody there")

        self._patch.setattr(tracking, "reach", fail)
        self._patch.setattr(tracking, "write_entry", fail)

    def mend(self) -> None:
        self._patch.setattr(tracking, "reach", self._reach)
        self._patch.setattr(tracking, "write_entry", self._write)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    line = Line(monkeypatch)
    yield line
    line.mend()


def connect(workspace: Workspace) -> MlflowClient:
    return MlflowClient(locate_tracking(workspace))


def list_runs(workspace: Workspace, stage: str) -> list[Stored]:
    client = connect(workspace)
    experiments = [found.experiment_id for found in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.`dsrg.stage` = '{stage}'"))


def list_steps(workspace: Workspace, run: Stored, name: str) -> list[int]:
    return [point.step for point in connect(workspace).get_metric_history(run.info.run_id, name)]


def test_trainings_lie_below_their_study_and_killed_ones_go_on(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DSRG_FLOW_RUN_ID", "flow-1")
    monkeypatch.setenv("DSRG_FLOW_RUN_URL", "http://127.0.0.1:4200/runs/flow-1")
    with pytest.raises(KeyboardInterrupt), tracking.stage_run(workspace, params, "train@1") as killed:
        for step in range(tracking.BUFFERED_METRICS + 10):
            killed.log_metrics({"loss": 1.0 / (step + 1)}, step=step)
        raise KeyboardInterrupt
    assert list_runs(workspace, "train@1")[0].info.status == "KILLED"
    with tracking.stage_run(workspace, params, "train@1") as run:
        assert run.run_id == killed.run_id
        run.log_metrics({"loss": 0.0}, step=tracking.BUFFERED_METRICS + 10)
    with tracking.study_run(workspace, params) as study:
        study.log_points({"val/miou": {1: 0.5}})

    (child,) = list_runs(workspace, "train@1")
    (parent,) = list_runs(workspace, "study")
    assert (child.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["dvc.stage"] == "train@1"
    assert child.data.tags["prefect.flow_run_id"] == "flow-1"
    assert child.data.tags["prefect.flow_run_url"].endswith("/runs/flow-1")
    assert child.data.params["train.crf.iterations"] == str(params.train.crf.iterations)
    assert child.inputs.dataset_inputs[0].dataset.name == "synthetic"
    assert "system/cpu_utilization_percentage" in child.data.metrics
    assert list_steps(workspace, child, "loss") == list(range(tracking.BUFFERED_METRICS + 11))
    assert connect(workspace).get_experiment(parent.info.experiment_id).name == "synthetic"


def test_a_finished_training_done_again_is_a_run_of_its_own(workspace: Workspace, params: Params):
    for _ in range(2):
        with tracking.stage_run(workspace, params, "classify"):
            pass
    assert len(list_runs(workspace, "classify")) == 2
    assert len(list_runs(workspace, "study")) == 1


def test_points_params_and_files_written_twice_are_there_once(workspace: Workspace, params: Params):
    picture = workspace.path("a.png")
    for text, value in (("one", 0.5), ("one", 0.5), ("two", 0.4)):
        picture.write_text(text)
        with tracking.study_run(workspace, params) as run:
            run.log_points({"val/miou": {1: 0.3, 2: value}})
            run.log_params({"compute": {"workers": 1 if text == "one" else 2}, "source": {"kind": "folder"}})
            run.log_files("round.1", {"images/a.png": picture})
    (study,) = list_runs(workspace, "study")
    assert list_steps(workspace, study, "val/miou") == [1, 2, 2]
    assert study.data.metrics["val/miou"] == 0.4, "the newest value of the last step counts"
    assert study.data.params == {"compute.workers": "1", "source.kind": "folder"}
    assert study.data.tags["dsrg.params_changed"] == "compute.workers=2"
    client = connect(workspace)
    assert [file.path for file in client.list_artifacts(study.info.run_id, "images")] == ["images/a.png"]
    assert Path(client.download_artifacts(study.info.run_id, "images/a.png")).read_text() == "two"


def test_values_are_spelled_as_in_params_yaml(workspace: Workspace, params: Params):
    with tracking.study_run(workspace, params) as run:
        run.log_params(params.model_dump(mode="json"))
    (study,) = list_runs(workspace, "study")
    found = study.data.params
    assert found["cams.scales"] == "[1.2, 1.8]"
    assert found["cams.flip"] == "true"
    assert found["source.kind"] == "synthetic"
    assert found["rounds.1.prev"] == "cues"
    assert set(found) == set(tracking.flatten(params.model_dump()))


@pytest.mark.parametrize("dies", ["before it began", "on the way"])
def test_what_a_dead_mlflow_missed_is_told_later(
    workspace: Workspace, params: Params, line: Line, capsys: pytest.CaptureFixture[str], dies: str
):
    picture = workspace.path("a.png")
    if dies == "before it began":
        line.cut()
    with tracking.stage_run(workspace, params, "train@1") as run:
        for step in range(1, 11):
            if step == 6:
                run.flush()
                line.cut()
            run.log_metrics({"loss": 1.0 / step}, step=step)
        picture.write_text("panel")
        run.log_files("panels", {"images/a.png": picture})
        picture.unlink()
    said = capsys.readouterr().err
    assert said.count("MLflow does not work") == 1
    assert tracking.count_waiting(workspace) == 1

    line.mend()
    with tracking.stage_run(workspace, params, "train@2"):
        assert "told what was kept of 1 run" in capsys.readouterr().out
    (child,) = list_runs(workspace, "train@1")
    assert child.info.status == "FINISHED"
    assert list_steps(workspace, child, "loss") == list(range(1, 11))
    assert child.data.params["train.lr"] == str(params.train.lr)
    assert child.data.tags["mlflow.parentRunId"] == list_runs(workspace, "study")[0].info.run_id
    assert connect(workspace).list_artifacts(child.info.run_id, "images")
    assert child.info.start_time < list_runs(workspace, "train@2")[0].info.start_time
    assert list(workspace.path(FOLDER).iterdir()) == []


def test_a_training_killed_without_mlflow_and_continued_with_it_is_one_run(
    workspace: Workspace, params: Params, line: Line
):
    line.cut()
    with pytest.raises(KeyboardInterrupt), tracking.stage_run(workspace, params, "train@1") as run:
        run.log_metrics({"loss": 1.0}, step=1)
        raise KeyboardInterrupt
    line.mend()
    with tracking.stage_run(workspace, params, "train@1") as run:
        run.log_metrics({"loss": 0.5}, step=2)
    (child,) = list_runs(workspace, "train@1")
    assert list_steps(workspace, child, "loss") == [1, 2]
    assert child.info.status == "FINISHED"


def test_what_a_living_process_still_writes_is_left_alone(workspace: Workspace, params: Params, line: Line):
    line.cut()
    with tracking.stage_run(workspace, params, "train@1") as run:
        run.set_tags({"a": "b"})
        line.mend()
        with tracking.study_run(workspace, params):
            assert tracking.count_waiting(workspace) == 1
        run.log_metrics({"loss": 1.0}, step=1)
    with tracking.study_run(workspace, params):
        assert tracking.count_waiting(workspace) == 0
    (child,) = list_runs(workspace, "train@1")
    assert list_steps(workspace, child, "loss") == [1]


def test_a_study_told_as_a_whole_waits_only_once(workspace: Workspace, params: Params, line: Line):
    line.cut()
    for _ in range(3):
        with tracking.study_run(workspace, params, whole=True) as run:
            run.log_points({"val/miou": {1: 0.5}})
    assert tracking.count_waiting(workspace) == 1


def test_half_a_line_of_a_killed_process_is_left_out(workspace: Workspace, params: Params, line: Line):
    line.cut()
    with tracking.stage_run(workspace, params, "train@1") as run:
        run.log_metrics({"loss": 1.0}, step=1)
    line.mend()
    (folder,) = workspace.path(FOLDER).iterdir()
    with (folder / "entries.jsonl").open("a") as file:
        file.write('{"kind": "metr')
    with tracking.study_run(workspace, params):
        pass
    assert list_steps(workspace, list_runs(workspace, "train@1")[0], "loss") == [1]


def test_what_can_never_be_written_does_not_hold_up_the_rest(
    workspace: Workspace, params: Params, line: Line, capsys: pytest.CaptureFixture[str]
):
    line.cut()
    with tracking.stage_run(workspace, params, "train@1") as run:
        run.log_files("panels", {"images/a.png": workspace.path("mlflow.db")})
        run.log_metrics({"loss": 1.0}, step=1)
    line.mend()
    (folder,) = workspace.path(FOLDER).iterdir()
    for file in (folder / "files").iterdir():
        file.unlink()
    with tracking.study_run(workspace, params) as study:
        assert study.reached
    assert "MLflow refused what was kept, which is left out: files of train@1" in capsys.readouterr().err
    assert list_steps(workspace, list_runs(workspace, "train@1")[0], "loss") == [1]
    assert tracking.count_waiting(workspace) == 0


def test_one_refusal_does_not_end_the_tracking(
    workspace: Workspace,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    whole = tracking.write_entry

    def refuse(client: Any, run_id: str, entry: dict[str, Any]) -> None:
        if entry["kind"] == "dataset":
            raise MlflowException("no such thing", error_code=INVALID_PARAMETER_VALUE)
        whole(client, run_id, entry)

    monkeypatch.setattr(tracking, "write_entry", refuse)
    with tracking.stage_run(workspace, params, "train@1") as run:
        run.log_metrics({"loss": 1.0}, step=1)
        assert run.reached
    assert "MLflow refused dataset" in capsys.readouterr().err
    assert list_steps(workspace, list_runs(workspace, "train@1")[0], "loss") == [1]
    assert not workspace.path(FOLDER).exists()


def test_an_unreachable_server_is_known_in_seconds(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9/")
    with tracking.stage_run(workspace, params, "train@1") as run:
        assert not run.reached
    said = capsys.readouterr().err
    assert "no answer from http://127.0.0.1:9" in said
    assert "secret" not in said


def test_a_run_in_a_folder_of_its_own_is_kept_in_the_project(
    workspace: Workspace, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    apart = tmp_path / "apart"
    apart.mkdir()
    monkeypatch.setenv("DSRG_TRACKING_ROOT", str(tmp_path))
    with tracking.stage_run(Workspace(apart), params, "classify"):
        pass
    assert len(list_runs(workspace, "classify")) == 1
    assert not (apart / "mlflow.db").exists()


def test_a_study_is_its_params_but_not_the_machine_nor_its_rounds(params: Params):
    machine = params.model_copy(update={"compute": params.compute.model_copy(update={"workers": 3})})
    method = params.model_copy(update={"train": params.train.model_copy(update={"lr": 0.123})})
    assert tracking.digest_study(machine) == tracking.digest_study(params)
    longer = {**params.model_dump(), "rounds": expand_rounds(3), "final_round": "3"}
    assert tracking.digest_study(Params.model_validate(longer)) == tracking.digest_study(params)
    assert tracking.digest_study(method) != tracking.digest_study(params)
