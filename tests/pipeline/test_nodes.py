"""Stages that train on two machines, which are groups of processes on this one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tiny_project import PROJECT, build_params, copy_workspace, read_losses, run_in_process, write_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@contextlib.contextmanager
def joining(
    root: Path, *options: str, code: Path = PROJECT, program: tuple[str, ...] = ("-m", "tasks.join")
) -> Iterator[subprocess.Popen[str]]:
    """Be another machine, as long as this lasts."""
    process = subprocess.Popen(
        [sys.executable, *program, "--root", str(root), *options],
        cwd=code,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(code)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def prepare(root: Path, source: Path, **compute: Any) -> None:
    root.mkdir()
    copy_workspace(source, root)
    params = build_params(
        compute={"workers": 2, **compute},
        train={"batch_size": 4, "dropout": 0.0},
        classify={"batch_size": 4},
    )
    write_params(params, root)


def train(root: Path, stage: str, *, before: str = "") -> tuple[int, str]:
    with run_in_process(root, stage, before=before) as process:
        said, _ = process.communicate()
    return process.returncode, said


def read_until_step(process: subprocess.Popen[str], *, more_than: int) -> str:
    """Read what a stage says until it has done more than so many steps."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        found = re.match(r"PROGRESS train@1 (\d+)", line)
        if found is not None and int(found[1]) > more_than:
            return "".join(said)
    raise AssertionError("".join(said))


def wait_until_gone(session: int) -> None:
    """Wait until no process of another machine is left."""
    deadline = time.monotonic() + 30
    while left := list_session(session):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def list_session(session: int) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def test_two_machines_learn_as_one_process_does(tiny_run: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "one", tmp_path / "two"
    prepare(alone, tiny_run)
    prepare(together, tiny_run, nodes=2)
    with joining(together, program=("-c", "from flows.cli import main; main()", "join")) as other:
        for stage, devices in (("classify", 1), ("train@1", 1), ("train@2", 2)):
            if devices > 1:
                params = (together / "params.yaml").read_text()
                (together / "params.yaml").write_text(params.replace("devices: 1", f"devices: {devices}"))
            for root in (alone, together):
                status, said = train(root, stage)
                assert status == 0, said
            expected, losses = read_losses(alone, stage), read_losses(together, stage)
            assert len(losses) == len(expected) > 1
            np.testing.assert_allclose(losses, expected, rtol=2e-3)
            assert not (together / ".work" / "call.json").exists()
        other.send_signal(signal.SIGINT)
        said, _ = other.communicate()
    assert other.returncode == 130
    assert "Traceback" not in said
    assert said.count("joined, machine 2 of 2") == said.count(": done") == 3, said


def test_a_machine_that_does_not_come_is_one_line(tiny_run: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    prepare(root, tiny_run, nodes=4)
    status, said = train(root, "train@1", before="import tasks.meeting; tasks.meeting.WAIT_SECONDS = 1.0")
    assert status == 2
    assert re.search(r"^Nodes    waits for 3 more, call [0-9a-f]+: dsrg join, on each machine$", said, re.M)
    assert said.splitlines()[-1] == (
        "error: 3 of 4 machines did not come in 1 s: on each of them, run `dsrg join` in this folder, or set "
        "compute.nodes=1; what is finished was kept"
    )
    assert not (root / ".work" / "call.json").exists()


def test_a_machine_that_dies_is_one_line_and_the_same_command_continues(
    tiny_run: Path, tmp_path: Path
) -> None:
    root = tmp_path / "project"
    prepare(root, tiny_run, nodes=2)
    params = (root / "params.yaml").read_text()
    assert "min_steps: 1" in params
    (root / "params.yaml").write_text(params.replace("min_steps: 1", "min_steps: 30"))
    with joining(root) as other, run_in_process(root, "train@1") as process:
        read_until_step(process, more_than=2)
        os.kill(other.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        wait_until_gone(other.pid)
    assert process.returncode == 2, rest
    error = [line for line in rest.splitlines() if line.startswith("error: ")]
    assert len(error) == 1, rest
    assert re.match(r"error: a process that trains beside this one ended \(on \S+\), most likely", error[0])
    assert "Traceback" not in rest
    kept = list((root / ".work" / "train@1").glob("*/last.ckpt"))
    assert len(kept) == 1
    with joining(root) as other:
        with run_in_process(root, "train@1") as process:
            said = read_until_step(process, more_than=10)
            process.kill()
        assert re.search(r"train@1: goes on after step ([2-9]|\d\d) of 30", said), said
        status, said = train(root, "train@1")
        other.terminate()
        heard, _ = other.communicate()
    assert status == 0, said
    assert re.search(r"train@1: goes on after step \d\d of 30", said), said
    assert len(read_losses(root, "train@1")) == 30
    lost = r"^warning: train@1 of \S+ ended: the machine that called for this training has ended it$"
    assert len(re.findall(lost, heard, re.M)) == heard.count(": done") == 1, heard


def test_a_machine_with_other_code_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    root, other_code = tmp_path / "project", tmp_path / "code"
    prepare(root, tiny_run, nodes=2)
    for folder in ("dsrg", "tasks"):
        shutil.copytree(PROJECT / folder, other_code / folder)
    labels = other_code / "dsrg" / "labels.py"
    labels.write_text(labels.read_text() + "\n# other\n")
    with joining(root, code=other_code) as other:
        status, said = train(root, "train@1")
        refused, _ = other.communicate()
    expected = r"error: \S+ has other code or other packages than \S+"
    assert status == other.returncode == 2
    assert re.match(expected, said.splitlines()[-1]), said
    assert re.match(expected, refused.splitlines()[-1]), refused


def test_a_folder_that_is_not_here_and_a_call_that_nobody_made_are_one_line(tmp_path: Path) -> None:
    with joining(tmp_path / "nowhere") as other:
        said, _ = other.communicate()
    assert other.returncode == 2
    assert said.startswith(f"error: `{tmp_path / 'nowhere'}` is no project here: all machines must share")
    (tmp_path / "params.yaml").touch()
    with joining(tmp_path, "--seconds", "1", "--call", "3f9c") as other:
        said, _ = other.communicate()
    assert other.returncode == 2
    assert said.splitlines()[-1] == (f"error: no training of `{tmp_path}` waited for this machine within 1 s")
