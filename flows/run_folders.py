"""A folder of its own for every run from the Prefect UI, so that the user's files are never touched.

It is a git worktree of the commit that the project is on, with the project's uncommitted code and
params laid over it, and the project's DVC cache: what was computed anywhere is restored, not repeated.
Where the project lies in no git repository it is a plain copy of what a run needs.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from dsrg.places import is_url
from tasks.errors import UserError
from tasks.params import read_params
from tasks.workspace import WORK

RUNS = f"{WORK}/runs"
_READY = f"{WORK}/ready"
# what a run reads besides its data; other files of the user, however large, are not laid over
_LAID_OVER = (
    "dsrg",
    "tasks",
    "flows",
    "metrics",
    "dvc.yaml",
    "dvc.lock",
    "params.yaml",
    ".dvcignore",
    ".dvc",
)
_OF_A_RUN = ("params.yaml", "dvc.lock", "metrics")


def open_run_folder(
    project: Path, name: str, *, base: str = "", configure: Callable[[Path], None] | None = None
) -> Path:
    """Make the folder of a run, or find the one that an earlier attempt of the same run left.

    Parameters
    ----------
    project : Path
        The user's project; nothing in it is changed but ``.work/``.
    name : str
        Of the run; names the folder.
    base : str
        Finished run, or git revision, whose params and results the run starts from; the project as
        it is on disk if empty.
    configure : callable
        Called once with the new folder, to change its params.

    Returns
    -------
    Path
        The folder, with ``params.yaml``, ``dvc.yaml`` and everything that DVC can restore.

    Raises
    ------
    UserError
        `base` is unknown, or git cannot make a worktree.
    """
    from flows.versioning_folders import restore_outputs, share_cache

    project = project.resolve()
    home = project / RUNS / name
    prefix = _find_prefix(project)
    folder = home if prefix is None else home / prefix
    if (folder / _READY).exists():
        return folder
    remove_run_folder(project, name)
    if prefix is None:
        if base:
            raise UserError(f"run {base!r} cannot be taken up: the project lies in no git repository")
        _copy_project(project, folder)
    else:
        revision = _find_revision(project, base) if base else ""
        home.parent.mkdir(parents=True, exist_ok=True)
        _git(project, "worktree", "add", "--quiet", "--detach", str(home), "HEAD")
        _lay_over(project, folder)
        if revision:
            _take_results(folder, revision)
    try:
        if configure:
            configure(folder)
    except UserError:
        remove_run_folder(project, name)
        raise
    share_cache(project, folder)
    restore_outputs(folder)
    (folder / WORK).mkdir(exist_ok=True)
    (folder / _READY).touch()
    return folder


def reach_pictures(project: Path, folder: Path, settings: Sequence[str]) -> None:
    """Link a folder of pictures that lies in the project but not in git, so that it is found from `folder`.

    Parameters
    ----------
    project, folder : Path
        The user's project and the run's own folder.
    settings : sequence of str
        ``KEY=VALUE`` that the run is going to have; ``source.path`` counts if it is among them.
    """
    given = [setting.partition("=")[2] for setting in settings if setting.startswith("source.path=")]
    text = json.loads(given[-1]) if given else read_params(folder / "params.yaml").source.path
    if is_url(text):
        return
    path = Path(text)
    if not path.is_absolute() and not (folder / path).exists() and (project / path).exists():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(project / path, target_is_directory=True)


def remove_run_folder(project: Path, name: str) -> None:
    """Remove the folder of a run, if there is one; its experiment and its outputs in the cache stay."""
    home = project / RUNS / name
    if not home.exists():
        return
    if (home / ".git").exists():
        with contextlib.suppress(UserError):  # git may have forgotten a folder that still is there
            _git(project, "worktree", "remove", "--force", str(home))
    shutil.rmtree(home, ignore_errors=True)
    if _find_prefix(project) is not None:
        _git(project, "worktree", "prune")


def list_run_folders(project: Path) -> list[Path]:
    """List the folders that runs left: those in work, and those that failed and are kept."""
    home = project / RUNS
    return sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []


def _find_prefix(project: Path) -> str | None:
    """Find where the project lies in its git repository; None without one, or without a commit."""
    try:
        _git(project, "rev-parse", "--verify", "--quiet", "HEAD")
        return _git(project, "rev-parse", "--show-prefix").strip()
    except UserError:
        return None


def _find_revision(project: Path, base: str) -> str:
    """Find the commit of a finished run, by its name, or of any other revision."""
    refs = _git(project, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    named = [ref for ref in refs if ref.split("/")[-1] == base and not ref.startswith("refs/exps/exec")]
    try:
        return _git(
            project, "rev-parse", "--verify", "--quiet", f"{named[0] if named else base}^{{commit}}"
        ).strip()
    except UserError:
        known = ", ".join(sorted({ref.split("/")[-1] for ref in refs})[-8:]) or "none yet"
        raise UserError(f"run {base!r} not found; finished runs: {known} (all: dvc exp list -A)") from None


def _lay_over(project: Path, folder: Path) -> None:
    listed = _git(
        project, "ls-files", "-z", "--modified", "--others", "--exclude-standard", "--", *_LAID_OVER
    )
    for name in filter(None, listed.split("\0")):
        source, target = project / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        elif not source.exists():
            target.unlink(missing_ok=True)


def _take_results(folder: Path, revision: str) -> None:
    for place in _OF_A_RUN:
        held = _git(folder, "ls-tree", "--name-only", revision, "--", place).strip()
        if held:
            _git(folder, "checkout", "--quiet", revision, "--", place)


def _copy_project(project: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in _LAID_OVER:
        source = project / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp")
            shutil.copytree(source, folder / name, ignore=ignored)
        elif source.exists():
            shutil.copy2(source, folder / name)


def _git(folder: Path, *arguments: str) -> str:
    command: Sequence[str] = ("git", "-C", str(folder), *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise UserError("git not found: install it, or run without the UI: dsrg run") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise UserError(f"git {arguments[0]}: {reason.removeprefix('fatal: ')}") from None
    return done.stdout
