"""Ctrl-C and SIGTERM in the middle of a stage: a clean end, a word on how to go on, and that it is true."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from toy_project import build_environment, take_bodies

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

DOORS = {
    "dsrg run": ["-c", "from flows.cli import main; main()", "run"],
    "dvc repro": ["-m", "dvc", "repro"],
}
PATIENCE = 120.0
GONE_SECONDS = 60.0


def start(project: Path, door: str) -> subprocess.Popen[str]:
    environment = {**build_environment(project), "PREFECT_HOME": str(project / ".prefect")}
    environment.pop("PREFECT_API_URL", None)
    return subprocess.Popen(
        [sys.executable, *DOORS[door]],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def works_in(process: psutil.Process, root: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(root)
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
        return False


@pytest.mark.parametrize(
    ("door", "number", "to_group", "status"),
    [
        ("dsrg run", signal.SIGINT, True, 130),  # as a terminal sends it
        ("dsrg run", signal.SIGTERM, False, 143),  # as `kill` and systemd do
        ("dvc repro", signal.SIGINT, True, None),
    ],
)
def test_a_stopped_run_says_how_to_go_on_and_does(
    toy_project: Path, door: str, number: signal.Signals, to_group: bool, status: int | None
) -> None:
    sleeping, bodies = toy_project / "sleep_cams", toy_project / "bodies.log"
    sleeping.touch()
    process = start(toy_project, door)
    deadline = time.monotonic() + PATIENCE
    while not bodies.exists() or "cams" not in bodies.read_text().split():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (os.killpg if to_group else os.kill)(process.pid, number)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == status if status else process.returncode != 0, said
    assert "what is finished was kept: the same command continues there" in said
    assert "Traceback" not in said, said
    deadline = time.monotonic() + GONE_SECONDS
    while left := [found for found in psutil.process_iter() if works_in(found, toy_project)]:
        assert time.monotonic() < deadline, [found.cmdline() for found in left]
        time.sleep(0.1)
    assert take_bodies(toy_project) == ["ingest", "classify", "cams"]

    sleeping.unlink()
    process = start(toy_project, door)
    said, _ = process.communicate(timeout=3 * PATIENCE)
    assert process.returncode == 0, said
    ran = take_bodies(toy_project)
    assert (ran[0], ran[-1]) == ("cams", "report")
    assert "classify" not in ran
