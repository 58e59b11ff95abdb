"""A real MLflow server that is down, or dies while a training is at work."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient
from tiny_project import copy_workspace, hash_outputs, run_in_process

from tasks import study
from tasks.tracking_spool import FOLDER

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SEGMENTER = "data/rounds/1/segmenter.safetensors"
# holds the training still after its first step, until told to go on
PAUSE = (
    "import time\n"
    "from pathlib import Path\n"
    "from tasks.fitting import StepRecord\n"
    "whole = StepRecord.add\n"
    "def add(self, progress):\n"
    "    whole(self, progress)\n"
    "    self._tracker.flush()\n"
    "    Path('stepped').touch()\n"
    "    while not Path('go-on').exists():\n"
    "        time.sleep(0.05)\n"
    "StepRecord.add = add\n"
)


class Server:
    """MLflow's server on a port that stays the same when it is started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = found.getsockname()[1]
        self._folder = folder
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urlopen(f"{self.url}/health", timeout=5).close()
                return
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            time.sleep(0.2)
        raise AssertionError("MLflow's server did not come up")

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_mlflow, folder / "server.db")
    server = Server(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    for name in ("DSRG_TRACKING_ROOT", "DSRG_MLFLOW_URL", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.kill()


@pytest.fixture
def root(tiny_run: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "project"
    copied.mkdir()
    copy_workspace(tiny_run, copied)
    for name in ("metrics", "reports"):
        shutil.copytree(tiny_run / name, copied / name)
    return copied


def read_curve(server: Server, stage: str) -> tuple[str, list[int]]:
    """Read how a training's only run ended, and the steps of its loss."""
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name("synthetic").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`dsrg.stage` = '{stage}'")
    return run.info.status, [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]


def test_a_server_that_dies_costs_the_training_nothing(server: Server, root: Path, tiny_run: Path) -> None:
    server.start()
    (root / SEGMENTER).unlink()
    training = run_in_process(root, "train@1", before=PAUSE)
    while not (root / "stepped").exists():
        assert training.poll() is None, training.communicate()[0]
        time.sleep(0.05)
    assert read_curve(server, "train@1") == ("RUNNING", [1])
    server.kill()
    began = time.monotonic()
    (root / "go-on").touch()
    said, _ = training.communicate(timeout=300)
    assert training.returncode == 0, said
    assert said.count("MLflow does not work") == 1
    assert time.monotonic() - began < 60
    assert hash_outputs(root, [SEGMENTER]) == hash_outputs(tiny_run, [SEGMENTER])
    assert len(list((root / FOLDER).iterdir())) == 1

    server.start()
    assert study.main(["--root", str(root)]) == 0
    assert list((root / FOLDER).iterdir()) == []
    assert read_curve(server, "train@1") == ("FINISHED", [1, 2])
    client = MlflowClient(server.url)
    found = client.get_model_version_by_alias("synthetic", "champion")
    assert client.list_artifacts(found.run_id, "images")


def test_a_server_that_is_down_from_the_start_is_told_afterwards(server: Server, root: Path) -> None:
    for stage in ("train@1", "evaluate@1", "report"):
        began = time.monotonic()
        process = run_in_process(root, stage)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert said.count("no answer from") == 1, said
        assert time.monotonic() - began < 60
    server.start()
    assert study.main(["--root", str(root)]) == 0
    assert read_curve(server, "train@1") == ("FINISHED", [1, 2])
    experiment = MlflowClient(server.url).get_experiment_by_name("synthetic").experiment_id
    assert len(MlflowClient(server.url).search_runs([experiment])) == 2
