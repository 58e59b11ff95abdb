"""DVC, behind a few verbs; with the modules ``versioning_…`` all that imports it.

A stage is run by a child process, ``python -m flows.versioning_repro STAGE``, which is DVC's own
``dvc repro --single-item STAGE`` and ends when the process that started it ends. The stage's body,
started by DVC, does likewise, so that a cancelled run leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.lifetime import watched_by_children
from tasks.locking import ask_for
from tasks.warm import owned_by_children, start_ahead

STOP_SECONDS = 20.0
BUSY_SECONDS = 20.0
_REPRO = "flows.versioning_repro"
_WITHOUT_GIT = "[core]\n    no_scm = true\n"
_NOISE = (
    "To track the changes with git",
    "To enable auto staging",
    "Use `dvc push`",
    "git add ",
    "dvc config core.autostage",
)
_BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")
_KILLED = re.compile(r"exited with (-9|137)\b")


class VersioningError(UserError):
    """DVC cannot work here; the message says why and what to do."""


class BusyError(VersioningError):
    """Another DVC works on the same files."""


class StageKilledError(Exception):
    """The system killed a stage, for instance because memory ran out; trying again may help."""


@dataclass(frozen=True)
class Outcome:
    """How bringing a stage up to date went.

    Attributes
    ----------
    error : str or None
        Why the stage failed, in its own words.
    unchanged : bool
        Nothing was to do.
    cached : bool
        DVC had the result of the same work and restored it.
    """

    error: str | None = None
    unchanged: bool = False
    cached: bool = False


def prepare(root: Path) -> None:
    """Make DVC work where the project lies in no git repository, such as an unpacked archive.

    Raises
    ------
    VersioningError
        `root` holds no ``dvc.yaml``.
    """
    if not (root / "dvc.yaml").exists():
        raise VersioningError(
            f"`{root.resolve()}` has no dvc.yaml: go to the project's folder, or use --root"
        )
    local = root / ".dvc" / "config.local"
    if any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents)):
        if local.exists() and local.read_text(encoding="utf-8") == _WITHOUT_GIT:
            local.unlink()  # a repository by now
    elif not local.exists():
        local.parent.mkdir(exist_ok=True)
        local.write_text(_WITHOUT_GIT, encoding="utf-8")


def list_stages(root: Path) -> list[str]:
    """List the stages of ``dvc.yaml``, rounds expanded, in an order in which they can run."""
    with open_repo(root) as repo:
        import networkx as nx

        return [stage.name for stage in nx.dfs_postorder_nodes(repo.index.graph)]


def list_edges(root: Path) -> set[tuple[str, str]]:
    """List which stage needs which: (earlier, later)."""
    with open_repo(root) as repo:
        return {(earlier.name, later.name) for later, earlier in repo.index.graph.edges}


def is_up_to_date(root: Path, stage: str, *, patience: float = BUSY_SECONDS) -> bool:
    """Ask DVC whether a stage's params, dependencies and outputs are as its last run left them.

    A `dvc` that is at the stage's files just now (another status, a `dvc repro` that is about to be
    refused) is waited for, `patience` seconds.

    Raises
    ------
    BusyError
        It still is.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return _ask_status(root, stage)
        except BusyError:
            if time.monotonic() >= deadline:
                raise
            ask_for(root, stage)
            time.sleep(0.3)


def describe_state(root: Path, stage: str) -> str:
    """Describe a stage's state for people: ``up to date``, ``to run``, or ``at work``."""
    try:
        return "up to date" if is_up_to_date(root, stage, patience=0) else "to run"
    except BusyError:
        return "at work"


def _ask_status(root: Path, stage: str) -> bool:
    from dvc.exceptions import DvcException

    with open_repo(root) as repo:
        try:
            # a bare stage name would be looked up in the current directory's dvc.yaml
            return not repo.status([f"{repo.root_dir}/dvc.yaml:{stage}"])
        except DvcException as error:
            kind = BusyError if _BUSY.search(str(error)) else VersioningError
            raise kind(_explain(str(error), root)) from error


def prepare_stages(root: Path) -> None:
    """Have a process import what stages need, while this one is still at other things."""
    start_ahead(root, _list_variables(owned_by_children()))


def reproduce_stage(
    root: Path, stage: str, *, on_line: Callable[[str], None], environment: Mapping[str, str] | None = None
) -> Outcome:
    """Have DVC bring one stage up to date, handing every line of its output to `on_line`.

    Parameters
    ----------
    root : Path
        The project.
    stage : str
        As DVC names it.
    on_line : callable
        Called with every line.
    environment : mapping, optional
        Variables that the stage sees besides those of this process.

    Raises
    ------
    StageKilledError
        The system killed the stage.
    """
    command = [sys.executable, "-m", _REPRO, stage]
    environment = {**(environment or {}), **owned_by_children()}
    status, lines = run_child(command, root, on_line=on_line, environment=environment)
    if status and _BUSY.search("\n".join(lines)):
        is_up_to_date(root, stage)  # waits until nobody is at its files
        status, lines = run_child(command, root, on_line=on_line, environment=environment)
    if status == 0:
        return Outcome(
            unchanged=any(line.endswith("didn't change, skipping") for line in lines),
            cached=any("is cached - skipping run" in line for line in lines),
        )
    text = "\n".join(lines)
    if _KILLED.search(text) or status == -9:
        raise StageKilledError(f"{stage} was killed by the system: it may need more memory than there is")
    return Outcome(error=_explain(text, root))


def run_child(
    command: list[str],
    folder: Path,
    *,
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> tuple[int, list[str]]:
    """Run a command that ends with this process; return its exit status and what it said.

    Parameters
    ----------
    command : list of str
    folder : Path
        Where to run it.
    on_line : callable
        Called with every line, as it comes.
    environment : mapping, optional
        Variables besides those of this process.
    """
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=_list_variables(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    lines: list[str] = []
    try:
        assert child.stdout is not None
        for raw in child.stdout:
            line = raw.rstrip()
            if line and not line.strip().startswith(_NOISE):
                lines.append(line)
                on_line(line)
        return child.wait(), lines
    finally:
        _stop(child)
        if child.stdout is not None:
            child.stdout.close()


def _list_variables(added: Mapping[str, str]) -> dict[str, str]:
    """List the variables of a child's environment."""
    return {
        **os.environ,
        **added,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        **watched_by_children(),
        "DSRG_PROGRESS": "plain",
        "PYTHONUNBUFFERED": "1",
    }


def _stop(child: subprocess.Popen[str]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _explain(text: str, root: Path) -> str:
    """Pick the stage's own error out of DVC's output; DVC's where there is none."""
    if _BUSY.search(text):
        return (
            f"`{root.resolve()}` is busy: {_name_blocker(text)} works on this stage. "
            "Wait for it to end, or stop it"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    dvc = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return "\n".join(own or dvc or lines[-3:] or ["no reason was given"])


def _name_blocker(text: str) -> str:
    found = re.search(r"\(PID (\d+)\): (.+)", text)
    return f"`{found[2]}` (process {found[1]})" if found else "another `dvc`"


@contextlib.contextmanager
def open_repo(root: Path) -> Iterator[Any]:
    """Open DVC's view of a project; for the modules named ``versioning_…`` only."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        repo = Repo(str(root.resolve()))
    except NotDvcRepoError as error:
        raise VersioningError(
            f"`{root.resolve()}` is no DVC project: go to the folder with dvc.yaml"
        ) from error
    except DvcException as error:
        raise VersioningError(_explain(str(error), root)) from error
    with contextlib.closing(repo):
        yield repo
