"""One run per workspace: who comes second is told, a dead holder holds nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.locking import (
    HELD,
    WAIT,
    WorkspaceBusyError,
    ask_for,
    find_holder,
    hold_workspace,
    wait_until_free,
)

PROJECT = Path(__file__).resolve().parent.parent.parent
HOLD = """
import os, sys, time
from pathlib import Path
from tasks.locking import hold_workspace, keep_lock
root, what = Path(sys.argv[1]), sys.argv[2]
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process that holds the lock and then waits for its standard input to end."""
    started: list[subprocess.Popen[str]] = []

    def begin(what: str, body: str = "", **environment: str) -> subprocess.Popen[str]:
        held = "with hold_workspace(root, what) as lock:\n    print('held', lock, flush=True)\n"
        process = subprocess.Popen(
            [sys.executable, "-c", f"{HOLD}{held}    {body or 'sys.stdin.read()'}", str(tmp_path), what],
            env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("held")
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def release(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait() == 0


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_the_second_comer_is_told_who_since_when_and_how_to_wait(tmp_path: Path, start: Start):
    holder = start("train@2")
    line = (
        rf"is in use by `train@2` \(process {holder.pid}\) since \d\d:\d\d:\d\d: `(.*)` waits for it to end"
    )
    for what, way in (("dsrg run", "dsrg run --wait"), ("cams", "dsrg wait")):
        with pytest.raises(WorkspaceBusyError) as caught, hold_workspace(tmp_path, what):
            pass
        found = re.search(line, str(caught.value))
        assert found, caught.value
        assert found[1] == way
    release(holder)
    with hold_workspace(tmp_path, "cams"):
        pass


def test_a_lock_that_was_given_back_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        with hold_workspace(tmp_path, "cams"):
            assert str(find_holder(tmp_path)).startswith(f"`cams` (process {os.getpid()}) since ")
        assert find_holder(tmp_path) is None
    assert HELD not in os.environ
    assert capsys.readouterr().out == ""


def test_the_lock_of_a_killed_process_is_stale(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
):
    holder = start("dsrg run")
    kill(holder)
    assert f'"pid": {holder.pid}' in (tmp_path / ".work" / "lock").read_text()
    assert find_holder(tmp_path) is None
    with hold_workspace(tmp_path, "cams"):
        pass
    assert f"the lock of `dsrg run` (process {holder.pid}) since" in capsys.readouterr().out


def test_a_forked_worker_that_outlives_the_holder_keeps_nothing(tmp_path: Path, start: Start):
    body = "os.fork() or print('worker', os.getpid(), flush=True); time.sleep(60)"
    holder = start("train@1", body)
    assert holder.stdout is not None
    worker = int(holder.stdout.readline().split()[1])
    kill(holder)
    try:
        assert find_holder(tmp_path) is None
        os.kill(worker, 0)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_child_that_was_handed_the_lock_keeps_it(tmp_path: Path, start: Start):
    child = (
        "import sys, time; from tasks.locking import keep_lock; "
        "keep_lock(int(sys.argv[1])); print(1, flush=True); time.sleep(60)"
    )
    body = (
        "import subprocess; child = subprocess.Popen("
        f"[sys.executable, '-c', {child!r}, str(lock)], pass_fds=[lock], stdout=subprocess.PIPE); "
        "child.stdout.readline(); print('child', child.pid, flush=True); time.sleep(60)"
    )
    holder = start("dsrg run", body)
    assert holder.stdout is not None
    kept = int(holder.stdout.readline().split()[1])
    kill(holder)
    try:
        with pytest.raises(WorkspaceBusyError, match="`dsrg run`"), hold_workspace(tmp_path, "cams"):
            pass
    finally:
        os.kill(kept, signal.SIGKILL)


def test_whoever_works_for_the_holder_need_not_wait(tmp_path: Path, start: Start):
    with hold_workspace(tmp_path, "dsrg run") as lock:
        assert lock is not None
        release(start("train@1"))
        assert str(find_holder(tmp_path)).startswith("`dsrg run`")


def test_waiting_ends_with_the_holder_and_is_said_once(
    tmp_path: Path,
    start: Start,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    for way in ("option", "variable", "command"):
        holder = start("train@2")
        assert holder.stdin is not None
        timer = threading.Timer(0.7, holder.stdin.close)
        timer.start()
        if way == "command":
            wait_until_free(tmp_path)
        else:
            monkeypatch.setenv(WAIT, "1" if way == "variable" else "0")
            with hold_workspace(tmp_path, "dsrg run", wait=True if way == "option" else None):
                assert str(find_holder(tmp_path)).startswith("`dsrg run`")
        timer.join()
        said = capsys.readouterr().out
        assert said.count(f"waiting for `train@2` (process {holder.pid}) since") == 1
        assert len(said.splitlines()) == 1


def test_a_wait_within_dvc_gives_way_to_the_holder(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
):
    start("dsrg run")
    monkeypatch.setenv("DVC_STAGE", "train@2")
    ask_for(tmp_path, "train@2")
    with (
        pytest.raises(WorkspaceBusyError, match=r"`dsrg run` .* has come to train@2 itself: run `dsrg wait`"),
        hold_workspace(tmp_path, "train@2", wait=True),
    ):
        pass


def test_a_lock_whose_folder_was_removed_locks_the_new_one(tmp_path: Path, start: Start):
    start("train@1")
    shutil.rmtree(tmp_path / ".work")
    with hold_workspace(tmp_path, "cams"):
        assert str(find_holder(tmp_path)).startswith("`cams`")


def test_a_lock_that_is_only_looked_at_is_free(tmp_path: Path):
    """`dsrg wait` and `dsrg stages` look again and again, also from several terminals at once."""
    with hold_workspace(tmp_path, "cams"):
        pass
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            find_holder(tmp_path)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            with hold_workspace(tmp_path, "cams"):
                pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_looking_makes_nothing_and_needs_no_right_to_write(tmp_path: Path):
    assert find_holder(tmp_path) is None
    assert not list(tmp_path.iterdir())
    with hold_workspace(tmp_path, "cams"):
        (tmp_path / ".work" / "lock").chmod(0o444)
        assert str(find_holder(tmp_path)).startswith("`cams`")


def test_what_a_dead_holder_wanted_is_forgotten(tmp_path: Path, start: Start):
    kill(start("dsrg run"))
    ask_for(tmp_path, "train@2")
    with hold_workspace(tmp_path, "dsrg run"):
        assert not (tmp_path / ".work" / "wanted").exists()


def test_whoever_worked_for_a_dead_holder_does_not_work_beside_the_next(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
):
    dead = start("dsrg run")
    token = json.loads((tmp_path / ".work" / "lock").read_text())["token"]
    kill(dead)
    with hold_workspace(tmp_path, "cams"):
        pass
    start("dsrg run")
    monkeypatch.setenv(HELD, token)
    with pytest.raises(WorkspaceBusyError), hold_workspace(tmp_path, "train@1"):
        pass
    (tmp_path / ".work" / "lock").write_text("")  # held, but not signed yet
    monkeypatch.setenv(HELD, "")
    with pytest.raises(WorkspaceBusyError, match="`another run`"), hold_workspace(tmp_path, "train@1"):
        pass


def test_a_disk_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(lock: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    message = r"the disk of `\.work/lock` knows no locks \(No locks available\)"
    with pytest.raises(UserError, match=message), hold_workspace(tmp_path, "cams"):
        pass
