"""DVC, behind four verbs: the only module that imports it.

A stage is run by a child process, ``python -m flows.versioning STAGE``, which is DVC's own
``dvc repro --single-item STAGE`` and ends when the process that started it ends. The stage's body,
started by DVC, does likewise, so that a cancelled run leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.lifetime import end_with_starter, watched_by_children

STOP_SECONDS = 20.0
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


class StageKilledError(Exception):
    """The system killed a stage, for instance because memory ran out; trying again may help."""


@dataclass(frozen=True)
class Outcome:
    """How bringing a stage up to date went.

    Attributes
    ----------
    cached : bool
        DVC had the result of the same work and restored it.
    error : str or None
        Why the stage failed, in its own words.
    """

    cached: bool
    error: str | None


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
    if any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents)):
        return
    local = root / ".dvc" / "config.local"
    if not local.exists():
        local.parent.mkdir(exist_ok=True)
        local.write_text("[core]\n    no_scm = true\n", encoding="utf-8")


def list_stages(root: Path) -> list[str]:
    """List the stages of ``dvc.yaml``, rounds expanded, in an order in which they can run."""
    with _open_repo(root) as repo:
        import networkx as nx

        return [stage.name for stage in nx.dfs_postorder_nodes(repo.index.graph)]


def list_edges(root: Path) -> set[tuple[str, str]]:
    """List which stage needs which: (earlier, later)."""
    with _open_repo(root) as repo:
        return {(earlier.name, later.name) for later, earlier in repo.index.graph.edges}


def is_up_to_date(root: Path, stage: str) -> bool:
    """Ask DVC whether a stage's params, dependencies and outputs are as its last run left them."""
    from dvc.exceptions import DvcException

    with _open_repo(root) as repo:
        try:
            # a bare stage name would be looked up in the current directory's dvc.yaml
            return not repo.status([f"{repo.root_dir}/dvc.yaml:{stage}"])
        except DvcException as error:
            raise VersioningError(_explain(str(error), root)) from error


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
    command = [sys.executable, "-m", "flows.versioning", stage]
    status, lines = run_child(command, root, on_line=on_line, environment=environment)
    if status == 0:
        return Outcome(cached=any("is cached - skipping run" in line for line in lines), error=None)
    text = "\n".join(lines)
    if _KILLED.search(text) or status == -9:
        raise StageKilledError(f"{stage} was killed by the system: it may need more memory than there is")
    return Outcome(cached=False, error=_explain(text, root))


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
    variables = {
        **os.environ,
        **(environment or {}),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        **watched_by_children(),
        "DSRG_PROGRESS": "plain",
        "PYTHONUNBUFFERED": "1",
    }
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
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
        status = child.wait()
    finally:
        _stop(child)
        if child.stdout is not None:
            child.stdout.close()
    return status, lines


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
            f"`{root.resolve()}` is busy: another `dsrg run` or `dvc repro` works on this stage. "
            "Wait for it to end, or stop it"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    dvc = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return "\n".join(own or dvc or lines[-3:] or ["no reason was given"])


def share_cache(project: Path, folder: Path) -> None:
    """Let a run's own `folder` use the DVC cache and the settings of `project`.

    Outputs are linked from the cache where the disk allows it, not copied: stages never write into an
    output in place.
    """
    with _open_repo(project) as repo:
        cache = repo.cache.local.path
    local = project / ".dvc" / "config.local"
    target = folder / ".dvc" / "config.local"
    target.parent.mkdir(exist_ok=True)
    if local.exists():
        target.write_text(local.read_text(encoding="utf-8"), encoding="utf-8")
    from dvc.config import Config

    config = Config(str(target.parent), validate=False)
    with config.edit("local") as settings:
        settings.setdefault("cache", {}).update(dir=cache, type=["reflink", "hardlink", "copy"])


def restore_outputs(root: Path) -> None:
    """Bring back every output that ``dvc.lock`` names and the cache holds; leave out the rest."""
    from dvc.exceptions import CheckoutError

    with _open_repo(root) as repo, contextlib.suppress(CheckoutError):  # what is missing is made anew
        repo.checkout(force=True, allow_missing=True)


@contextlib.contextmanager
def _open_repo(root: Path) -> Iterator[Any]:
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


def _reproduce(stage: str) -> int:
    from dvc.cli import main

    end_with_starter()
    os.environ.update(watched_by_children())
    return int(main(["repro", "--single-item", stage]))


if __name__ == "__main__":
    sys.exit(_reproduce(sys.argv[1]))
