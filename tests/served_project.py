"""A project served by ``dsrg serve``, with servers of its own, spoken to as the UI does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

WITHOUT = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_TESTING_TEST_MODE", "PREFECT_TEST_MODE")
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class ServedProject:
    """Starts and stops ``dsrg serve`` in `root`, and does what a person does in the UI.

    Parameters
    ----------
    root : Path
        A project with its own code.
    home : Path
        For the Prefect server's database.
    options : str
        Of ``dsrg serve``.
    """

    def __init__(self, root: Path, home: Path, *options: str) -> None:
        self.root = root
        self.home = home
        self.options = options
        self.port, self.mlflow_port = find_free_port(), find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.mlflow_url = f"http://127.0.0.1:{self.mlflow_port}"
        self.log = home / "serve.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServedProject:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, timeout: float = 600.0) -> None:
        """Start serving; return when runs are taken."""
        self.home.mkdir(parents=True, exist_ok=True)
        environment = {
            **{name: value for name, value in os.environ.items() if name not in WITHOUT},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(self.root),
            "PYTHONUNBUFFERED": "1",
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        command = ["serve", "--port", str(self.port), "--mlflow-port", str(self.mlflow_port), *self.options]
        with self.log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from flows.cli import main; main()", *command],
                cwd=self.root,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while "serving " not in self.read_log():
            assert self._process.poll() is None, self.read_log()
            assert time.monotonic() < deadline, self.read_log()
            time.sleep(0.3)

    def stop(self) -> None:
        """Stop as a service manager does; a process in the background may not hear Ctrl-C."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill as a machine that runs out of memory does."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait(90)
        self._process = None

    def measure_memory(self) -> int:
        """Measure what ``dsrg serve`` and its servers hold, without the runs: their resident sets, bytes."""
        assert self._process is not None
        served = psutil.Process(self._process.pid)
        held = 0
        for process in [served, *served.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                if not Path(process.cwd()).is_relative_to(self.root / ".work" / "runs"):
                    held += process.memory_info().rss
        return held

    def read_log(self) -> str:
        return self.log.read_text(errors="replace")

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask Prefect's API; an error status raises.

        503 is what the server answers to whatever a client may ask again, a locked database first of all;
        Prefect's own clients do.
        """
        deadline = time.monotonic() + 30
        while True:
            answer = httpx.request(method, f"{self.url}/api{path}", json=body, timeout=60)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def find_deployment(self, name: str) -> dict[str, Any]:
        found = self.request("POST", "/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        assert len(found) == 1
        return dict(found[0])

    def trigger(self, deployment: str, **parameters: Any) -> str:
        """Start a run as the form does: its defaults, changed; return the flow run's id."""
        found = self.find_deployment(deployment)
        body = {"parameters": {**found["parameters"], **parameters}, "state": {"type": "SCHEDULED"}}
        return str(self.request("POST", f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def cancel(self, run: str) -> None:
        self._set_state(run, {"type": "CANCELLING"})

    def retry(self, run: str) -> None:
        self._set_state(run, {"type": "SCHEDULED", "name": "AwaitingRetry"})

    def _set_state(self, run: str, state: Mapping[str, Any]) -> None:
        self.request("POST", f"/flow_runs/{run}/set_state", {"state": dict(state), "force": True})

    def read_run(self, run: str) -> dict[str, Any]:
        return dict(self.request("GET", f"/flow_runs/{run}"))

    def wait_for(self, run: str, *names: str, timeout: float = 300.0) -> dict[str, Any]:
        """Wait until a run's state has one of some names or types; return its state."""
        deadline = time.monotonic() + timeout
        while True:
            state = self.read_run(run)["state"]
            if state["name"] in names or state["type"] in names:
                return dict(state)
            ended = state["type"] in FINAL
            assert not ended, f"{state['name']}: {state['message']}\n{self.read_log()[-5000:]}"
            assert time.monotonic() < deadline, f"{state['name']}\n{self.read_log()[-5000:]}"
            time.sleep(0.2)

    def wait_for_task(self, run: str, task: str, state: str, *, timeout: float = 120.0) -> None:
        deadline = time.monotonic() + timeout
        while self.read_tasks(run).get(task) != state:
            assert time.monotonic() < deadline, f"{self.read_tasks(run)}\n{self.read_log()[-5000:]}"
            time.sleep(0.2)

    def read_tasks(self, run: str) -> dict[str, str]:
        """Name the states of a run's stages; the last try counts."""
        body = {"flow_runs": {"id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return {
            task["name"]: (task["state"] or {}).get("name", "")
            for task in self.request("POST", "/task_runs/filter", body)
        }

    def list_artifacts(self, run: str) -> dict[str, str]:
        """List a run's artifacts: key to type."""
        body = {"artifacts": {"flow_run_id": {"any_": [run]}}}
        return {item["key"]: item["type"] for item in self.request("POST", "/artifacts/filter", body)}

    def list_logs(self, run: str) -> list[str]:
        """List the lines that a run's page shows as its log."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.request("POST", "/logs/filter", body)]

    def list_run_folders(self) -> list[Path]:
        home = self.root / ".work" / "runs"
        return sorted(home.iterdir()) if home.exists() else []

    def list_processes(self) -> list[str]:
        """List processes at work in the runs' folders."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                place = (entry / "cwd").readlink()
                if place.is_relative_to(self.root / ".work" / "runs"):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except (OSError, ValueError):  # no process, or one that has just ended
                continue
        return found

    def wait_until_idle(self, *, timeout: float) -> None:
        """Wait until no process is at work in the runs' folders."""
        deadline = time.monotonic() + timeout
        while at_work := self.list_processes():
            assert time.monotonic() < deadline, at_work
            time.sleep(0.2)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def list_studies(url: str) -> tuple[str, list[str]]:
    """List MLflow's runs of whole studies: the experiment's id and theirs, oldest first."""
    api = f"{url}/api/2.0/mlflow"
    named = httpx.get(f"{api}/experiments/get-by-name", params={"experiment_name": "synthetic"}, timeout=60)
    experiment = named.raise_for_status().json()["experiment"]["experiment_id"]
    body = {
        "experiment_ids": [experiment],
        "filter": "tags.`dsrg.stage` = 'study'",
        "order_by": ["attributes.start_time ASC"],
    }
    found = httpx.post(f"{api}/runs/search", json=body, timeout=60).raise_for_status().json()
    return experiment, [run["info"]["run_id"] for run in found.get("runs", [])]
