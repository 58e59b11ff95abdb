"""`dsrg run` with a Prefect server that is down, or dies while a stage works: the work goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from served_project import WITHOUT, find_free_port
from toy_project import read_until, run_dvc, start_in, take_bodies

from flows.reach import is_there

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(autouse=True)
def _no_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WITHOUT:
        monkeypatch.delenv(name, raising=False)


def start_run(root: Path, api: str, home: Path, **environment: str) -> subprocess.Popen[str]:
    environment |= {"PREFECT_API_URL": api, "PREFECT_HOME": str(home)}
    return start_in(root, "flows.cli", "run", **environment)


def finish(process: subprocess.Popen[str]) -> str:
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, said + errors
    return said + errors


def test_a_server_that_is_down_is_named_once(toy_project: Path, tmp_path: Path):
    said = finish(start_run(toy_project, f"http://127.0.0.1:{find_free_port()}/api", tmp_path / "home"))
    assert said.count("Prefect's server does not answer") == 1
    assert take_bodies(toy_project)[-1] == "report"
    run_dvc(toy_project, "repro")
    assert take_bodies(toy_project) == []


def test_a_server_of_its_own_that_cannot_start_costs_nothing(toy_project: Path, tmp_path: Path):
    database = f"sqlite+aiosqlite:///{tmp_path}/no/such/folder/prefect.db"
    said = finish(
        start_run(toy_project, "", tmp_path / "home", PREFECT_SERVER_DATABASE_CONNECTION_URL=database)
    )
    (line,) = [line for line in said.splitlines() if "Prefect's server does not answer" in line]
    assert line.endswith("it did not start, " + str(toy_project / ".work/prefect-of-run.log") + " says why")
    assert "unable to open database file" in (toy_project / ".work/prefect-of-run.log").read_text()
    assert "Traceback" not in said
    assert take_bodies(toy_project)[-1] == "report"


def test_a_server_that_dies_costs_nothing(toy_project: Path, tmp_path: Path):
    port, home = find_free_port(), tmp_path / "home"
    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
        env={**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        api = f"http://127.0.0.1:{port}/api"
        deadline = time.monotonic() + 300
        while not is_there(api):
            assert time.monotonic() < deadline
            time.sleep(0.3)
        marker = toy_project / "sleep_train@1"
        marker.touch()
        run = start_run(toy_project, api, home)
        read_until(run, "train@1 sleeps", errors=True)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    marker.unlink()
    said = finish(run)
    assert said.count("Prefect's server does not answer") == 1
    bodies = take_bodies(toy_project)
    assert bodies[-1] == "report"
    assert len(bodies) == len(set(bodies)), "a stage ran twice"
