"""A run whose trainings want two machines, started in a work pool: it gets the second by itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served_project import WITHOUT, ServedProject
from tiny_project import build_params, write_params
from toy_project import commit, copy_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
POOL = "machines"


class Pool:
    """A Prefect server and workers of one pool, each in the place of a machine."""

    def __init__(self, root: Path, home: Path) -> None:
        self.person = ServedProject(root, home)
        self._root, self._home = root, home
        self._running: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **{name: value for name, value in os.environ.items() if name not in WITHOUT},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(root),
            "OMP_NUM_THREADS": "1",
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }

    def start_server(self) -> None:
        port = str(self.person.port)
        self._start("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port)
        self._environment["PREFECT_API_URL"] = f"{self.person.url}/api"
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.person.url}/api/health").is_success:
                    return
            assert time.monotonic() < deadline, (self._home / "server.log").read_text()
            time.sleep(0.5)

    def register(self) -> None:
        program = "from flows.cli import main; main()"
        command = [sys.executable, "-c", program, "serve", "--work-pool", POOL]
        subprocess.run(command, cwd=self._root, env=self._environment, check=True)

    def start_worker(self, name: str) -> subprocess.Popen[bytes]:
        self.person.log = self._home / f"{name}.log"
        return self._start(
            *(name, "prefect", "worker", "start", "--pool", POOL, "--type", "process"),
            *("--limit", "1", "--name", name),
        )

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=self._root,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def stop(self) -> None:
        for process in reversed(self._running):
            process.terminate()
            process.wait(90)

    def list_joins(self) -> list[dict[str, Any]]:
        """List the runs of further machines, oldest first."""
        body = {"deployments": {"name": {"any_": ["join"]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return list(self.person.request("POST", "/flow_runs/filter", body))


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    root = copy_project(tmp_path / "project")
    params = build_params(
        compute={"nodes": 2},
        classify={"batch_size": 4},
        train={"batch_size": 4},
        reference={"enabled": False},
    )
    write_params(params, root)
    commit(root)
    home = tmp_path / "home"
    home.mkdir()
    pool = Pool(root, home)
    try:
        pool.start_server()
        pool.register()
        yield pool
    finally:
        pool.stop()


def test_a_run_in_a_work_pool_gets_its_second_machine_by_itself(pool: Pool, tmp_path: Path) -> None:
    person = pool.person
    pool.start_worker("first")
    second = pool.start_worker("second")
    run = person.trigger("whole-pipeline", rounds=1)
    person.wait_for(run, "COMPLETED", timeout=600)
    assert set(person.read_tasks(run).values()) == {"Completed"}
    joins = pool.list_joins()
    name = person.read_run(run)["name"]
    assert [join["name"] for join in joins] == [f"{name}-classify-2", f"{name}-train@1-2"]
    for join in joins:
        person.wait_for(join["id"], "COMPLETED", timeout=60)
        assert any("joined, machine 2 of 2" in line for line in person.list_logs(join["id"]))

    # a pool in which nobody is left to join
    second.terminate()
    second.wait(90)
    meeting = tmp_path / "project" / "tasks" / "meeting.py"
    code = meeting.read_text()
    assert "WAIT_SECONDS = 600.0" in code
    meeting.write_text(code.replace("WAIT_SECONDS = 600.0", "WAIT_SECONDS = 5.0"))
    run = person.trigger("whole-pipeline", rounds=1, classify_epochs=2)
    state = person.wait_for(run, "FAILED", timeout=300)
    assert (
        "classify: 1 of 2 machines did not come in 5 s: on each of them, run `dsrg join`" in state["message"]
    )
    person.wait_for(pool.list_joins()[-1]["id"], "CANCELLED", timeout=30)
