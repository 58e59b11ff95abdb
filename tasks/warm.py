"""Stages that start in milliseconds: one process imports torch and all the rest, and forks each of them.

A stage is a process of its own, and most need torch, which takes seconds to import, every time. So the
first stage of a run starts a process that imports everything and then waits. It forks a child for
every stage of the run; what was to be that stage only passes on signals and the exit status. The process
ends with the run: with the `dvc` or `dsrg run` that its stages belong to. The `dvc` that `dsrg run` starts
for every stage is forked likewise, from a process that has imported DVC.

It serves only stages that would be the same without it: of the same project, with the same code (files as
they were when it read them) and the same environment, as far as that is read when packages are imported.
All others import for themselves, as do stages that nobody chains, stages beside a GPU, whose driver must not
be forked, and all where ``DSRG_WARM=0``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from types import FrameType

SWITCH = "DSRG_WARM"
OWNER = "DSRG_WARM_OWNER"
_GPUS = ("/dev/nvidia*", "/dev/kfd", "/dev/dxg")
_ANCESTORS = 3
CODE = Path(__file__).resolve().parent.parent

STREAMS = ("stdin", "stdout", "stderr")


@dataclass(frozen=True)
class Kind:
    """What a warm process is for.

    Attributes
    ----------
    module : str
        Whose ``main(arguments)`` its children run; they return the exit status.
    imports : tuple of str
        What it imports before it serves.
    waited_for : frozenset of str, optional
        First arguments that are worth a wait until it has; None is all.
    starting : frozenset of str
        First arguments that have it started, but run by themselves while it imports.
    beside_gpu : bool
        Whether it may be forked where there is a GPU.
    """

    module: str
    imports: tuple[str, ...]
    waited_for: frozenset[str] | None = None
    starting: frozenset[str] = frozenset()
    beside_gpu: bool = False


_WITH_TORCH = ("classify", "cams", "train", "relabel", "evaluate", "reference")
_IMPORTED_WHEN_NEEDED = (  # by these
    *("dsrg.engines", "lightning.fabric", "mlflow.store.tracking.sqlalchemy_store"),
    *("mlflow.system_metrics.system_metrics_monitor", "sqlalchemy.dialects.sqlite", "timm"),
)
STAGES = Kind(
    "tasks.__main__",
    (*(f"tasks.{stage}" for stage in _WITH_TORCH), *_IMPORTED_WHEN_NEEDED),
    waited_for=frozenset(_WITH_TORCH),
    starting=frozenset({"ingest"}),
)


@dataclass(frozen=True)
class Request:
    """What a stage's own process hands over: all that a process has and its code does not.

    Attributes
    ----------
    module : str
        Whose ``main`` is to run.
    arguments : list of str
    code : str
        The project's folder.
    folder : str
        Where to run.
    environment : dict of str to str
    umask : int
    descriptors : tuple of 3 int
        Of stdin, stdout and stderr.
    """

    module: str
    arguments: list[str]
    code: str
    folder: str
    environment: dict[str, str]
    umask: int
    descriptors: tuple[int, ...] = ()


def owned_by_children() -> Mapping[str, str]:
    """Make the variable that tells stages to share one warm process as long as this process lives."""
    return {OWNER: os.environ.get(OWNER, str(os.getpid()))}


def hand_over(arguments: Sequence[str], kind: Kind = STAGES) -> int | None:
    """Have a warm process do what this one was started for, if there is one or if one is worth its start.

    Parameters
    ----------
    arguments : sequence of str
        Of ``python -m tasks``, or of what else `kind` runs.
    kind : Kind

    Returns
    -------
    int or None
        The exit status; None where this process is to do it.
    """
    owner = _find_owner()
    if owner is None or not _may_fork(kind):
        return None
    first = arguments[0] if arguments else ""
    if first in kind.starting:
        _start_if_none(owner, kind, folder=Path(), environment=os.environ)
        return None
    connection = _connect(owner, kind, start=kind.waited_for is None or first in kind.waited_for)
    if connection is None:
        return None
    with connection:
        return _wait_for_stage(connection, kind, arguments)


def start_ahead(folder: Path, environment: Mapping[str, str]) -> None:
    """Start a warm process for stages before the first of them asks for it.

    Parameters
    ----------
    folder : Path
        Where they will run.
    environment : mapping
        Theirs; it names their owner.
    """
    if _may_fork(STAGES):
        _start_if_none(int(environment[OWNER]), STAGES, folder=folder, environment=environment)


def _start_if_none(owner: int, kind: Kind, *, folder: Path, environment: Mapping[str, str]) -> None:
    with suppress(OSError):  # those who want one see for themselves, then
        place = _choose_place(owner, kind, folder)
        if not place.exists():
            _start(place, owner, kind, folder=folder, environment=environment)


def _may_fork(kind: Kind) -> bool:
    if os.environ.get(SWITCH) == "0" or sys.platform != "linux":
        return False
    return kind.beside_gpu or not any(map(glob, _GPUS))


def _find_owner() -> int | None:
    """Find the process that chains stages: named in the environment, or the `dvc` that started this one."""
    if os.environ.get(OWNER, "").isdigit():
        return int(os.environ[OWNER])
    if "DVC_STAGE" not in os.environ:
        return None
    pid = os.getppid()
    for _ in range(_ANCESTORS):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(word == b"dvc" or word.endswith(b"/dvc") for word in words):
                return pid
            pid = int(_read_stat(pid)[1])
    return None


def _read_stat(pid: int) -> list[str]:
    """Read what /proc says of a process after its name: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def _connect(owner: int, kind: Kind, *, start: bool) -> socket.socket | None:
    try:
        place = _choose_place(owner, kind, Path())
    except OSError:
        return None  # the owner is gone, or the folder is not to be trusted
    connection = socket.socket(socket.AF_UNIX)
    for _ in range(3):
        try:
            connection.connect(str(place))
            return connection
        except FileNotFoundError:
            if not start:
                break
            _start(place, owner, kind, folder=Path(), environment=os.environ)
        except ConnectionRefusedError:
            place.unlink(missing_ok=True)  # of a process that was killed
        except OSError:
            break
    connection.close()
    return None


def _choose_place(owner: int, kind: Kind, project: Path) -> Path:
    """Choose the socket of an owner's warm process for a project, in a folder of this user alone."""
    folder = Path(tempfile.gettempdir()) / f"dsrg-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"`{folder}` is open to others")
    began = _read_stat(owner)[19]  # a later process may get the same number
    place = project.stat()
    return folder / f"{owner}-{began}-{place.st_dev:x}-{place.st_ino:x}-{kind.module.partition('.')[0]}"


def _start(place: Path, owner: int, kind: Kind, *, folder: Path, environment: Mapping[str, str]) -> None:
    """Start a warm process; it can be connected to at once."""
    import subprocess

    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(str(place))
        except OSError:
            return  # somebody was faster
        listener.listen()
        child = subprocess.Popen(
            [sys.executable, "-m", "tasks.warm_process", str(listener.fileno()), str(owner), *kind.imports],
            cwd=folder,
            env=environment,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # not this process's: who reads them would wait for the end
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        child.returncode = 0  # it outlives this process, which Python would warn of


def _wait_for_stage(connection: socket.socket, kind: Kind, arguments: Sequence[str]) -> int | None:
    """Ask for a stage and wait for its end, passing on signals; None if it was refused."""
    folder, environment = str(Path.cwd()), dict(os.environ)
    request = Request(kind.module, list(arguments), str(CODE), folder, environment, _read_umask())
    content = {name: value for name, value in asdict(request).items() if name != "descriptors"}
    replies = connection.makefile("r", encoding="utf-8")
    try:
        socket.send_fds(connection, [json.dumps(content).encode() + b"\n"], range(3))
        first = json.loads(replies.readline() or "{}")
    except OSError:
        return None
    if "pid" not in first:
        return None
    child: int = first["pid"]

    def pass_on(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    last = replies.readline()
    if not last:  # the warm process was killed
        pass_on(signal.SIGKILL, None)
    status = json.loads(last)["status"] if last else -signal.SIGKILL
    if status < 0:  # killed: whoever waits for this process is to see the same
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return int(status)


def _read_umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now
