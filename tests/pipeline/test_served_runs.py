"""Runs started, cancelled, retried and lost as the Prefect UI does it: real servers, real DVC, toy bodies."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served_project import ServedProject
from toy_project import build_toy, commit, run_dvc, take_bodies

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SECONDS_TO_ASK = 3.0  # how often the server's runner looks for runs, flows/serve.py
SECONDS_TO_CANCEL = 15.0  # 3 s on a machine at rest


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProject]:
    root = build_toy(tmp_path_factory.mktemp("served") / "toy")
    with (root / ".gitignore").open("a") as file:
        file.write("/bodies.log\n")
    commit(root)
    with ServedProject(root, tmp_path_factory.mktemp("prefect")) as project:
        yield project


@pytest.fixture(autouse=True)
def _nothing_of_the_user_changes(served: ServedProject) -> Iterator[None]:
    before = read_status(served.root)
    yield
    assert read_status(served.root) == before


def read_status(root: Path) -> str:
    command = ["git", "-C", str(root), "status", "--porcelain"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sleep_in(served: ServedProject, stage: str) -> Path:
    """Make a stage of the next run sleep until the file, in the run's folder, is removed."""
    name = f"sleep_{stage}"
    (served.root / name).touch()
    commit(served.root)
    return Path(name)


@pytest.mark.parametrize(
    ("deployment", "parameters", "words"),
    [
        ("whole-pipeline", {"lerning_rate": 0.1}, "lerning_rate"),
        ("whole-pipeline", {"rounds": 0}, "minimum of 1"),
        ("whole-pipeline", {"backbone_name": "vgg17"}, "vgg17"),
        ("re-evaluate", {"evaluate_flip": "maybe"}, "boolean"),
        ("predict", {}, "'images' is a required property"),
    ],
)
def test_a_bad_form_starts_nothing(
    served: ServedProject, deployment: str, parameters: dict[str, object], words: str
):
    with pytest.raises(httpx.HTTPStatusError) as refused:
        served.trigger(deployment, **parameters)
    assert refused.value.response.status_code == 409
    assert words in refused.value.response.text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"source": "no/such/folder"}, "`source` must be `synthetic`, a folder of pictures"),
        ({"more": "cams"}, "`more` must hold KEY=VALUE"),
        ({"more": "cams.sise=3"}, "cams.sise"),
    ],
)
def test_what_only_the_project_can_tell_is_one_line(
    served: ServedProject, parameters: dict[str, object], message: str
):
    run = served.trigger("whole-pipeline", **parameters)
    state = served.wait_for(run, "FAILED")
    assert message in state["message"]
    assert "\n" not in state["message"]
    assert served.list_run_folders() == []


def test_cancelled_then_retried_then_one_round_more(served: ServedProject):
    marker = sleep_in(served, "train@1")
    run = served.trigger("whole-pipeline", rounds=1, train_epochs=3)
    served.wait_for_task(run, "train@1", "Running")
    wait_until_asleep(served)
    waiting = served.trigger("whole-pipeline", rounds=1, train_epochs=3)
    time.sleep(2 * SECONDS_TO_ASK)
    assert served.read_run(waiting)["state"]["type"] == "SCHEDULED", "there is a slot for one run only"
    served.cancel(waiting)

    begun = time.monotonic()
    served.cancel(run)
    served.wait_for(run, "CANCELLED")
    assert time.monotonic() - begun < SECONDS_TO_CANCEL
    assert served.list_processes() == []
    (folder,) = served.list_run_folders()
    assert not (folder / "data/rounds/1/segmenter.safetensors").exists()

    (folder / marker).unlink()
    (served.root / marker).unlink()
    commit(served.root)
    served.retry(run)
    served.wait_for(run, "COMPLETED")
    states = served.read_tasks(run)
    assert states["cues"] == "UpToDate"
    assert states["train@1"] == "Completed"
    assert served.list_run_folders() == []
    assert {"summary", "progress-train-1"} <= served.list_artifacts(run).keys()

    name = f"{served.read_run(run)['name']}-{run[:4]}"
    assert served.read_run(run)["name"] == "synthetic-r1"
    assert name in run_dvc(served.root, "exp", "list", "-A")

    more = served.trigger("one-more-round", run=name)
    served.wait_for(more, "COMPLETED")
    assert served.read_run(more)["name"] == "synthetic-r2"
    ran = {stage for stage, state in served.read_tasks(more).items() if state == "Completed"}
    # the reference takes as many steps as all rounds together
    assert ran == {"train@2", "relabel@2", "refine@2", "evaluate@2", "reference", "report"}


def test_a_failure_names_stage_file_and_remedy_and_its_folder_is_kept(served: ServedProject):
    (served.root / "fail_relabel@1").touch()
    commit(served.root)
    run = served.trigger("whole-pipeline", rounds=1, train_epochs=4)
    state = served.wait_for(run, "FAILED")
    first, last = state["message"].splitlines()
    assert first == "relabel@1: `data/toy.zarr` was told to fail in relabel@1. Remove: fail_relabel@1"
    (folder,) = served.list_run_folders()
    assert last == f"Kept in .work/runs/{folder.name}: a retry continues there"

    (folder / "fail_relabel@1").unlink()
    served.retry(run)
    served.wait_for(run, "COMPLETED")
    assert served.read_tasks(run)["train@1"] == "UpToDate"
    (served.root / "fail_relabel@1").unlink()
    commit(served.root)


def test_what_a_run_computed_the_project_does_not_compute_again(served: ServedProject):
    run = served.trigger("whole-pipeline")
    served.wait_for(run, "COMPLETED")
    run_dvc(served.root, "repro")
    try:
        assert take_bodies(served.root) == []
        again = served.trigger("whole-pipeline")
        served.wait_for(again, "COMPLETED")
        assert set(served.read_tasks(again).values()) <= {"UpToDate", "Cached"}
    finally:
        subprocess.run(["git", "-C", str(served.root), "clean", "-qfd"], check=True)


def test_a_run_whose_server_was_killed_can_be_retried(served: ServedProject):
    marker = sleep_in(served, "refine@1")
    run = served.trigger("whole-pipeline", rounds=1, train_epochs=5)
    served.wait_for_task(run, "refine@1", "Running")
    wait_until_asleep(served)
    served.kill()
    served.wait_until_idle(timeout=60)

    served.start()
    served.wait_for(run, "CRASHED")
    (folder,) = served.list_run_folders()
    (folder / marker).unlink()
    served.retry(run)
    served.wait_for(run, "COMPLETED")
    assert served.read_tasks(run)["relabel@1"] == "UpToDate"
    (served.root / marker).unlink()
    commit(served.root)


def test_two_runs_at_once(served: ServedProject):
    marker = sleep_in(served, "cues")
    served.stop()
    served.options = ("--limit", "2")
    served.start()
    runs = [served.trigger("whole-pipeline", rounds=1, cues_spread=spread) for spread in (1.5, 3.5)]
    for run in runs:
        served.wait_for_task(run, "cues", "Running")
    folders = served.list_run_folders()
    assert len(folders) == 2, "both must be at work at the same time"
    for folder in folders:
        (folder / marker).unlink()
    for run in runs:
        served.wait_for(run, "COMPLETED")
        assert served.read_tasks(run)["cues"] == "Completed"
    experiments = run_dvc(served.root, "exp", "list", "-A")
    assert all(f"synthetic-r1-{run[:4]}" in experiments for run in runs)
    (served.root / marker).unlink()
    commit(served.root)


def wait_until_asleep(served: ServedProject, *, timeout: float = 60.0) -> None:
    """Wait until the body of a stage, told to sleep, is what runs."""
    deadline = time.monotonic() + timeout
    while not any("-m tasks " in process for process in served.list_processes()):
        assert time.monotonic() < deadline, served.read_log()[-3000:]
        time.sleep(0.1)
    time.sleep(1.0)
