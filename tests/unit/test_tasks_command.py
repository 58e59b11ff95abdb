"""``python -m tasks``: one clear line and a status for whatever a user can mend."""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_project import build_params

from dsrg.groups import StoreError
from tasks import shards
from tasks.__main__ import main
from tasks.console import parse_progress, show_progress, track
from tasks.errors import UserError
from tasks.schema import Compute
from tasks.shards import map_in_threads, map_shards


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, project_root: Path) -> types.ModuleType:
    module = types.ModuleType("tasks.cams")
    monkeypatch.setitem(sys.modules, "tasks.cams", module)
    monkeypatch.chdir(project_root)
    return module


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("`a` is wrong: mend it"), "error: `a` is wrong: mend it"),
        (
            StoreError("`data/cams.zarr` not found. Run: dvc repro cams"),
            "error: `data/cams.zarr` not found. Run:",
        ),
        (PermissionError(13, "Permission denied", "data"), "error: `data`: Permission denied"),
        (UserError("one\ntwo"), "error: one\nerror: two"),
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "error: the GPU has too little memory: lower",
        ),
        (MemoryError(), "error: memory ran out: end what else needs it"),
    ],
)
def test_an_error_is_one_line(
    stage: types.ModuleType, error: Exception, line: str, capsys: pytest.CaptureFixture[str]
):
    def run(*arguments: object, **options: object) -> None:
        raise error

    stage.run = run  # type: ignore[attr-defined]
    assert main(["cams"]) == 2
    assert capsys.readouterr().err.startswith(line)


def test_a_fault_of_the_program_keeps_its_traceback(stage: types.ModuleType):
    def run(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    stage.run = run  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        main(["cams"])


def test_ctrl_c_says_that_work_is_kept(stage: types.ModuleType, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    stage.run = run  # type: ignore[attr-defined]
    assert main(["cams"]) == 130
    assert "cams stopped by Ctrl-C; what is finished was kept" in capsys.readouterr().err


def test_a_round_that_is_not_there_is_named(project_root: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "--round", "77", "--root", str(project_root)]) == 2
    assert "`rounds` has no round '77'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nosuch"], ["train"], ["cams", "--round", "1"]])
def test_a_wrong_call_is_refused(arguments: list[str]):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_progress_is_a_line_every_tenth_and_a_line_for_machines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("DSRG_PROGRESS", "plain")
    with show_progress("train@1") as report:
        for done in range(101):
            report(done, 100, loss=0.5)
    lines = capsys.readouterr().out.splitlines()
    plain = [line for line in lines if parse_progress(line) is None]
    assert len(plain) == 10
    assert plain[4].startswith("train@1: 50/100 (50%) · loss 0.5")
    assert parse_progress(lines[-1]) == ("train@1", 100, 100)


def test_track_goes_through_everything():
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert list(track(2, "numbers")) == [0, 1]


def compute(workers: int) -> Compute:
    return build_params(compute={"workers": workers}).compute


@pytest.mark.parametrize(("workers", "in_threads"), [(1, False), (2, False), (2, True), (9, True)])
def test_shards_keep_their_order(workers: int, in_threads: bool):
    jobs = [-number for number in range(10)]
    found = map_shards(abs, jobs, compute=compute(workers), description="shards", in_threads=in_threads)
    assert list(found) == list(range(10))


@pytest.mark.parametrize("in_threads", [False, True])
def test_a_failing_shard_ends_the_map(in_threads: bool):
    with pytest.raises(TypeError):
        jobs: list[Any] = [[1], 3, [2]]
        list(map_shards(len, jobs, compute=compute(2), description="shards", in_threads=in_threads))


def kill_yourself(job: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_the_system_kills_is_one_line():
    with pytest.raises(UserError, match=r"a process at work on 'shards' was killed .* compute.workers=1"):
        list(map_shards(kill_yourself, [1, 2], compute=compute(2), description="shards"))


def test_after_a_failing_shard_none_is_begun():
    begun = []

    def fail_at_once(job: int) -> None:
        begun.append(job)
        time.sleep(0.05)
        raise ValueError(job)

    with pytest.raises(ValueError, match="0"):
        list(map_shards(fail_at_once, range(100), compute=compute(2), description="shards", in_threads=True))
    assert len(begun) < 10


@pytest.mark.parametrize(("threads", "count"), [(1, 10), (3, 10), (3, 2), (1, 1), (2, 0)])
def test_threads_run_no_further_ahead_than_they_may(threads: int, count: int):
    begun: list[int] = []

    def note(job: int) -> int:
        begun.append(job)
        return 2 * job

    found = []
    for result in map_in_threads(note, range(count), threads, ahead=1):
        found.append(result)
        time.sleep(0.01)
        assert len(begun) <= len(found) + threads
    assert found == [2 * job for job in range(count)]


def test_a_million_shards_are_not_all_begun_at_once():
    """Each that is begun takes memory, and its result waits."""
    begun: list[int] = []
    found = map_in_threads(begun.append, range(10**6), 2)
    for _ in range(3):
        next(found)
        time.sleep(0.05)
    assert len(begun) <= 3 + 2 * shards._AHEAD
    found.close()


def test_threads_share_what_is_open():
    job = object()
    found = map_shards(lambda one: one, [job, job], compute=compute(2), description="shards", in_threads=True)
    assert all(one is job for one in found)
