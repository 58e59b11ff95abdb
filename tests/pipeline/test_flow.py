"""The flow under Prefect's harness, on the real graph with toy bodies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_project import run_dvc, take_bodies

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def project(toy_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # the flow's own children import the toy's stages, not the repository's
    monkeypatch.setenv("PYTHONPATH", str(toy_project))
    return toy_project


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


def test_each_door_knows_what_the_other_did(project: Path):
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
    again = run_pipeline(root=str(project), return_state=True)
    assert set(read_task_states(again.state_details.flow_run_id).values()) == {"UpToDate"}

    for path in (project / "data/rounds/1/pseudo_labels.zarr").iterdir():
        path.unlink()
    restored = run_pipeline(root=str(project), return_state=True)
    assert read_task_states(restored.state_details.flow_run_id)["refine@1"] == "Cached"
    assert take_bodies(project) == []


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
