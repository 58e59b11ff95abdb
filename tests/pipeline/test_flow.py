"""The flow under Prefect's harness, on the real graph with toy bodies; and the limit ``gpu``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_project import build_params, write_params
from toy_project import LATER_THAN_REFINE, change_params, run_dvc, take_bodies

from flows import limits
from flows.params_file import edit_params
from flows.versioning import list_stages
from tasks.params import read_params

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def project(toy_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # the flow's own children import the toy's stages, not the repository's
    monkeypatch.setenv("PYTHONPATH", str(toy_project))
    return toy_project


@pytest.fixture
def done(done_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ``dvc repro`` made."""
    monkeypatch.setenv("PYTHONPATH", str(done_project))
    return done_project


def run_flow(project: Path) -> dict[str, str]:
    """Run the flow to its end; return the state of every stage."""
    from flows.pipeline import run_pipeline

    state = run_pipeline(root=str(project), return_state=True)
    assert state.is_completed(), state.message
    return read_task_states(state.state_details.flow_run_id)


def read_task_states(flow_run_id: object) -> dict[str, str]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))
    return {run.name: run.state_name or "" for run in runs}


def test_the_flow_has_the_edges_of_the_graph(project: Path, monkeypatch: pytest.MonkeyPatch):
    from prefect.states import Completed

    from flows import pipeline
    from flows.versioning import list_edges

    edges: set[tuple[str, str]] = set()
    names: dict[int, str] = {}
    states = []

    def record(stage: str, *, wait_for: tuple[object, ...], **rest: object) -> object:
        state = Completed()
        states.append(state)
        names[id(state)] = stage
        edges.update((names[id(before)], stage) for before in wait_for)
        return state

    monkeypatch.setattr(pipeline, "run_stage", record)
    monkeypatch.setattr(pipeline, "conclude", lambda root, states: Completed())
    pipeline.run_pipeline.fn(str(project))
    assert edges == list_edges(project)


@pytest.mark.slow
def test_what_a_failed_flow_and_its_retry_made_dvc_repro_never_makes_again(project: Path):
    from flows.pipeline import run_pipeline

    (project / "fail_relabel@1").touch()
    failed = run_pipeline(root=str(project), return_state=True)
    assert failed.is_failed()
    assert (
        failed.message == "relabel@1: `data/toy.zarr` was told to fail in relabel@1. Remove: fail_relabel@1"
    )
    states = read_task_states(failed.state_details.flow_run_id)
    assert states["train@1"] == "Completed"
    assert states["relabel@1"] == "Failed"
    assert states["refine@1"] == "NotReady"

    (project / "fail_relabel@1").unlink()
    take_bodies(project)
    done = run_pipeline(root=str(project), return_state=True)
    assert done.is_completed()
    states = read_task_states(done.state_details.flow_run_id)
    assert states["train@1"] == "UpToDate"
    assert states["relabel@1"] == "Completed"
    assert "ingest" not in take_bodies(project)

    run_dvc(project, "repro")
    assert take_bodies(project) == []


@pytest.mark.slow
def test_what_dvc_repro_made_the_flow_never_makes_again(done: Path):
    states = run_flow(done)
    assert set(states) == set(list_stages(done))
    assert set(states.values()) == {"UpToDate"}
    shutil.rmtree(done / "data" / "rounds" / "2")
    states = run_flow(done)
    assert {stage for stage, state in states.items() if state == "Cached"} == {
        f"{stage}@2" for stage in ("train", "relabel", "refine", "evaluate")
    }
    assert {state for stage, state in states.items() if not stage.endswith("@2")} == {"UpToDate"}
    assert take_bodies(done) == []


@pytest.mark.slow
def test_what_a_stage_that_ran_anew_left_unchanged_is_up_to_date(project: Path):
    toy = project / "tasks" / "toy_stage.py"
    without_code = 'for dep in spec["deps"] if not dep.endswith(".py")'
    toy.write_text(toy.read_text().replace('for dep in spec["deps"]', without_code))
    run_dvc(project, "repro")
    body = project / "tasks" / "cams.py"
    body.write_text(body.read_text() + "# a remark\n")
    take_bodies(project)
    states = run_flow(project)
    assert take_bodies(project) == ["cams"]
    assert {stage: state for stage, state in states.items() if state != "UpToDate"} == {"cams": "Completed"}


@pytest.mark.slow
def test_the_dashboard_of_a_stages_cluster_is_a_link_on_the_runs_page(project: Path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    body = project / "tasks" / "relabel.py"
    said = "console.say('Dask     2 workers, dashboard http://127.0.0.1:8787/status')"
    body.write_text(
        body.read_text().replace("    run_toy(", f"    from tasks import console; {said}\n    run_toy(")
    )
    run_flow(project)
    with get_client(sync_client=True) as client:
        keys = ArtifactFilterKey(any_=["cluster-relabel-1"])
        (found,) = client.read_artifacts(artifact_filter=ArtifactFilter(key=keys))
    assert found.data == "[dashboard](http://127.0.0.1:8787/status)"


@pytest.mark.slow
def test_the_flow_runs_what_a_change_reaches_and_restores_what_was_before(done: Path):
    labels = done / "data/rounds/2/pseudo_labels.zarr/content.txt"
    before = labels.read_text()
    weight = read_params(done / "params.yaml").refine.crf.bilateral_weight
    change_params(done, refine__crf__bilateral_weight=6.5)
    states = run_flow(done)
    assert sorted(take_bodies(done)) == sorted(LATER_THAN_REFINE)
    assert {stage for stage, state in states.items() if state != "UpToDate"} == set(LATER_THAN_REFINE)
    assert labels.read_text() != before
    run_dvc(done, "repro")
    assert take_bodies(done) == []

    change_params(done, refine__crf__bilateral_weight=weight)
    states = run_flow(done)
    assert {stage for stage, state in states.items() if state == "Cached"} == set(LATER_THAN_REFINE)
    assert take_bodies(done) == []
    assert labels.read_text() == before


@pytest.mark.slow
def test_a_third_round_through_the_flow_runs_only_itself_and_what_sums_up(done: Path):
    edit_params(done, rounds=3)
    states = run_flow(done)
    # the reference trains as many steps as all rounds together
    new = ["train@3", "relabel@3", "refine@3", "evaluate@3", "reference", "report"]
    assert sorted(take_bodies(done)) == sorted(new)
    assert {stage for stage, state in states.items() if state != "UpToDate"} == set(new)
    run_dvc(done, "repro")
    assert take_bodies(done) == []


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
def test_a_killed_flow_leaves_no_process_behind(project: Path, shell: str):
    """Debian's sh stays as a process between DVC and the stage, bash does not."""
    (project / "sleep_ingest").touch()
    script = (
        "import sys; from pathlib import Path; from flows.versioning import reproduce_stage\n"
        f"reproduce_stage(Path({str(project)!r}), 'ingest', on_line=lambda line: print(line, flush=True))"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command,
        cwd=project,
        env={**os.environ, "SHELL": shell},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as flow:
        assert flow.stdout is not None
        for line in flow.stdout:
            if "ingest sleeps" in line:
                break
        flow.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while _find_processes(flow.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _find_processes(flow.pid) == []


def _find_processes(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (
                    os.getsid(int(entry.name)) == session
                    and "Z" not in (entry / "stat").read_text().split()[2]
                ):
                    found.append(int(entry.name))
            except (ProcessLookupError, FileNotFoundError):
                continue
    return found


def read_limit() -> tuple[int, int]:
    """Slots of the limit, and how many are taken."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_global_concurrency_limit_by_name(limits.GPU)
    return found.limit, found.active_slots


@pytest.fixture
def cuda_project(tmp_path: Path) -> Path:
    write_params(build_params(compute={"device": "cuda"}), tmp_path)
    return tmp_path


def test_a_stage_with_a_network_holds_the_only_slot(cuda_project: Path):
    with limits.hold_gpu(cuda_project, "train@1"):
        assert read_limit() == (1, 1)
    assert read_limit() == (1, 0)


def test_a_stage_without_a_network_holds_none(cuda_project: Path):
    limits.ensure_gpu_limit()
    for stage in ("ingest", "cues", "refine@2", "report"):
        with limits.hold_gpu(cuda_project, stage):
            assert read_limit()[1] == 0, stage


def test_slots_that_a_person_gave_stay(cuda_project: Path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    limits.ensure_gpu_limit()
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(limits.GPU, GlobalConcurrencyLimitUpdate(limit=2))
    limits.ensure_gpu_limit()
    assert read_limit()[0] == 2
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(limits.GPU, GlobalConcurrencyLimitUpdate(limit=1))


def test_on_the_cpu_nothing_is_held(tmp_path: Path):
    write_params(build_params(), tmp_path)
    assert not limits.uses_gpu(tmp_path, "train@1")
