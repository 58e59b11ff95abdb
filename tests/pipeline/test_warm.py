"""Stages forked by a warm process: as if each had started by itself, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toy_project import build_environment, change_params, read_until, run_dvc, start_in, take_bodies

from flows.versioning import prepare_stages
from tasks.locking import find_holder
from tasks.warm import OWNER, SWITCH

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="warm processes are for Linux")


@pytest.fixture(autouse=True)
def own_folder_of_sockets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.02)


def start_stage(
    root: Path, owner: subprocess.Popen[bytes], *arguments: str, **environment: str
) -> subprocess.Popen[str]:
    return start_in(root, "tasks", *arguments, **{OWNER: str(owner.pid), **environment})


def run_stage(root: Path, owner: subprocess.Popen[bytes], *arguments: str, **environment: str) -> str:
    with start_stage(root, owner, *arguments, **environment) as process:
        said, errors = process.communicate()
    assert process.returncode == 0, said + errors
    return said


def start_sleeping(
    root: Path, owner: subprocess.Popen[bytes], stage: str, **environment: str
) -> tuple[subprocess.Popen[str], int]:
    """Start a stage that sleeps; its own process and the one that does the work."""
    (root / f"sleep_{stage}").touch()
    process = start_stage(root, owner, stage, **environment)
    read_until(process, "sleeps")
    holder = find_holder(root)
    assert holder is not None
    return process, holder.pid


def wake(root: Path, stage: str) -> None:
    (root / f"sleep_{stage}").unlink()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def read_parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def list_sockets(folder: Path) -> list[Path]:
    return list(folder.glob("dsrg-*/*"))


def test_stages_of_a_run_share_one_process(
    toy_project: Path, owner: subprocess.Popen[bytes], own_folder_of_sockets: Path
) -> None:
    run_stage(toy_project, owner, "cues")
    assert list_sockets(own_folder_of_sockets) == [], "not worth a start"
    process, worker = start_sleeping(toy_project, owner, "ingest")
    assert worker == process.pid, "it would have waited longer than it takes"
    assert len(list_sockets(own_folder_of_sockets)) == 1, "but those after it find it there"
    wake(toy_project, "ingest")
    process.communicate()
    parents = set()
    for stage in ("classify", "cues"):
        process, worker = start_sleeping(toy_project, owner, stage)
        assert worker != process.pid
        parents.add(read_parent(worker))
        wake(toy_project, stage)
        said, errors = process.communicate()
        assert process.returncode == 0, said + errors
    assert len(parents) == 1
    assert take_bodies(toy_project) == ["cues", "ingest", "classify", "cues"]
    (server,) = parents
    owner.kill()
    wait_for(lambda: is_gone(server))
    assert list_sockets(own_folder_of_sockets) == []


def test_a_bare_dvc_repro_has_one_too(toy_project: Path, own_folder_of_sockets: Path) -> None:
    (toy_project / "sleep_cams").touch()
    bodies = toy_project / "bodies.log"
    with start_in(toy_project, "dvc", "repro", "cams") as process:
        wait_for(lambda: "cams" in bodies.read_text().split() if bodies.exists() else False, 60)
        assert len(list_sockets(own_folder_of_sockets)) == 1
        wake(toy_project, "cams")
        said, errors = process.communicate()
    assert process.returncode == 0, said + errors
    wait_for(lambda: list_sockets(own_folder_of_sockets) == [])
    assert "up to date" in run_dvc(toy_project, "repro", "cams")


def test_one_started_ahead_takes_the_stages(
    toy_project: Path,
    owner: subprocess.Popen[bytes],
    own_folder_of_sockets: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in build_environment(toy_project).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(OWNER, str(owner.pid))
    monkeypatch.setattr(tempfile, "tempdir", str(own_folder_of_sockets))
    prepare_stages(toy_project)
    (socket,) = list_sockets(own_folder_of_sockets)
    prepare_stages(toy_project)
    process, worker = start_sleeping(toy_project, owner, "cues")
    assert worker != process.pid
    assert list_sockets(own_folder_of_sockets) == [socket], "nobody started a second one"
    wake(toy_project, "cues")
    assert process.communicate()[1] == ""


def test_dvc_is_forked_likewise(toy_project: Path, owner: subprocess.Popen[bytes]) -> None:
    (toy_project / "sleep_ingest").touch()
    process = start_in(toy_project, "flows.versioning_repro", "ingest", **{OWNER: str(owner.pid)})
    read_until(process, "sleeps")
    holder = find_holder(toy_project)
    assert holder is not None
    commands = []
    pid = holder.pid
    while pid > 1:
        commands.append(Path(f"/proc/{pid}/cmdline").read_text().split("\0"))
        pid = read_parent(pid)
    forked = [words[2] for words in commands if "dvc.cli.parser" in words]
    assert forked == ["tasks.warm_process"] * 2, "the child that is DVC, and the process that imported it"
    wake(toy_project, "ingest")
    said, errors = process.communicate()
    assert process.returncode == 0, said + errors
    assert "dvc.lock" in said
    assert take_bodies(toy_project) == ["ingest"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_stage(
    toy_project: Path, owner: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    process, worker = start_sleeping(toy_project, owner, "classify")
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "the same command continues there" in errors
    assert is_gone(worker)


def test_whoever_kills_a_stage_kills_its_work(toy_project: Path, owner: subprocess.Popen[bytes]) -> None:
    process, worker = start_sleeping(toy_project, owner, "classify")
    process.kill()
    process.communicate()
    wait_for(lambda: is_gone(worker), 5)
    wake(toy_project, "classify")
    run_stage(toy_project, owner, "classify")


def test_a_stage_that_the_system_kills_ends_as_if_it_had_been_its_own_process(
    toy_project: Path, owner: subprocess.Popen[bytes]
) -> None:
    process, worker = start_sleeping(toy_project, owner, "classify")
    os.kill(worker, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_warm_process_that_dies_takes_the_stage_along_and_is_replaced(
    toy_project: Path, owner: subprocess.Popen[bytes]
) -> None:
    process, worker = start_sleeping(toy_project, owner, "classify")
    server = read_parent(worker)
    os.kill(server, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: is_gone(worker), 5)
    wake(toy_project, "classify")
    process, worker = start_sleeping(toy_project, owner, "cams")
    assert worker != process.pid
    assert read_parent(worker) != server
    wake(toy_project, "cams")
    process.communicate()
    assert process.returncode == 0


def test_edited_code_runs_as_it_is_now(toy_project: Path, owner: subprocess.Popen[bytes]) -> None:
    run_stage(toy_project, owner, "classify")
    body = toy_project / "tasks" / "cams.py"
    body.write_text(body.read_text() + "\nfrom tasks import console\n\nconsole.say('edited')\n")
    assert "edited" in run_stage(toy_project, owner, "cams")


@pytest.mark.parametrize("variables", [{"OMP_NUM_THREADS": "7"}, {SWITCH: "0"}, {OWNER: "999999999"}])
def test_what_would_not_be_the_same_starts_by_itself(
    toy_project: Path, owner: subprocess.Popen[bytes], variables: dict[str, str]
) -> None:
    run_stage(toy_project, owner, "classify")
    process, worker = start_sleeping(toy_project, owner, "cams", **variables)
    assert worker == process.pid
    wake(toy_project, "cams")
    process.communicate()
    assert process.returncode == 0


def test_sockets_lie_in_a_folder_that_is_not_open_to_others(
    toy_project: Path, owner: subprocess.Popen[bytes], own_folder_of_sockets: Path
) -> None:
    folder = own_folder_of_sockets / f"dsrg-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    process, worker = start_sleeping(toy_project, owner, "classify")
    assert worker == process.pid
    wake(toy_project, "classify")
    process.communicate()
    assert process.returncode == 0


def test_a_stage_sees_the_environment_folder_and_streams_of_its_own_process(
    toy_project: Path, owner: subprocess.Popen[bytes]
) -> None:
    body = toy_project / "tasks" / "classify.py"
    body.write_text(
        "import os, sys\n\n\ndef run(params, workspace, *, round_key=None):\n"
        "    print(os.getcwd(), os.environ.get('COLOUR'), oct(os.umask(0)), file=sys.stderr)\n"
        "    print('said')\n"
    )
    before = os.umask(0o027)
    try:
        with start_stage(toy_project, owner, "classify", COLOUR="green") as process:
            said, errors = process.communicate()
    finally:
        os.umask(before)
    assert said == "said\n"
    assert errors == f"{toy_project} green 0o27\n"


@pytest.mark.parametrize(("leave", "status"), [("", 0), ("raise ValueError('odd')", 1), ("sys.exit(3)", 3)])
def test_what_is_to_happen_at_a_stages_end_happens(
    toy_project: Path, owner: subprocess.Popen[bytes], leave: str, status: int
) -> None:
    (toy_project / "tasks" / "classify.py").write_text(
        "import atexit, sys, threading, time\n\n\ndef run(params, workspace, *, round_key=None):\n"
        "    atexit.register(print, 'at the end')\n"
        "    threading.Thread(target=lambda: time.sleep(0.5) or print('a thread')).start()\n"
        "    sys.stdout.write('no whole line')\n"
        f"    {leave}\n"
    )
    with start_stage(toy_project, owner, "classify") as process:
        said, errors = process.communicate()
    assert said == "no whole linea thread\nat the end\n"
    assert process.returncode == status
    assert ("ValueError: odd" in errors) == (status == 1)


def test_params_are_read_anew(toy_project: Path, owner: subprocess.Popen[bytes]) -> None:
    run_stage(toy_project, owner, "classify")
    change_params(toy_project, classify__epochs=-1)
    with start_stage(toy_project, owner, "classify") as process:
        _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith("error: ")
