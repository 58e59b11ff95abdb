"""Finished runs as DVC experiments.

A run is saved as what ``dvc exp save`` makes of it, a commit under ``refs/exps/``, but without
touching the user's files, index or HEAD on the way (DVC stashes and re-applies the workspace), and
without its ``dvc commit --force``, which would record whatever lies there as made from whatever
``params.yaml`` says by then.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.versioning import open_repo
from tasks import console

_NOBODY = {
    f"GIT_{role}_{item}": value
    for role in ("AUTHOR", "COMMITTER")
    for item, value in (("NAME", "dsrg"), ("EMAIL", "dsrg@localhost"))
}
_ZERO = "0" * 40


class _NotSavedError(Exception):
    """Why a run cannot be an experiment."""


def save_experiment(
    root: Path, name: str, *, by_content: bool = False, say: Callable[[str], None] = console.say
) -> str | None:
    """Save the workspace's finished run as a DVC experiment.

    Holds every file in git that changed, ``dvc.lock``, metrics, plots and the stages' code; nothing
    else that is untracked. Needs no git identity.

    Parameters
    ----------
    root : Path
        The project: the user's own copy, or a git worktree of it; the experiment shows up in both.
    name : str
        The run's name; characters that git refuses are replaced, and a number is added if it is taken.
    by_content : bool
        Add four digits of the content to the name. A run that made nothing new is then the experiment
        that holds the same files already, and no other is made.
    say : callable
        Told why, where nothing could be saved.

    Returns
    -------
    str or None
        The experiment's name; None where there is no git, no commit yet, or a stage is not up to date.
    """
    try:
        return _save(root.resolve(), name, by_content=by_content)
    except _NotSavedError as reason:
        say(f"not kept as a DVC experiment: {reason}")
        return None


def _save(root: Path, name: str, *, by_content: bool) -> str:
    head = _find_head(root)
    with open_repo(root) as repo:
        changed = repo.status()
        files = _list_files(repo)
    if changed:
        stages = ", ".join(sorted(key.rpartition(":")[2] for key in changed))
        raise _NotSavedError(f"{stages} changed since: `dsrg run` brings it up to date")
    tree = _write_tree(root, files)
    taken = _list_experiments(root)
    same = [other.name for other in taken if (other.tree, other.baseline) == (tree, head)]
    if by_content and same:
        return same[0]
    wanted = f"{clean_name(name)}-{tree[:4]}" if by_content else clean_name(name)
    names = {other.name for other in taken}
    for number in range(1, 1000):
        candidate = wanted if number == 1 else f"{wanted}-{number}"
        if candidate in same or (candidate not in names and _create(root, head, tree, candidate)):
            return candidate
    raise _NotSavedError(f"no free name like {wanted}")


def _create(root: Path, head: str, tree: str, name: str) -> bool:
    """Create the experiment unless somebody else has just taken the name."""
    identity = {} if _ask_git(root, "var", "GIT_COMMITTER_IDENT") else _NOBODY
    message = f"dvc: experiment {name}"
    commit = _git(root, "commit-tree", tree, "-p", head, "-m", message, environment=identity)
    place = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    return _ask_git(root, "update-ref", place, commit, _ZERO) is not None


def clean_name(name: str) -> str:
    """Make a name of a run one that git and DVC take.

    Examples
    --------
    >>> clean_name("my birds/2026: r2")
    'my-birds-2026-r2'
    """
    cleaned = re.sub(r"\.{2,}", ".", re.sub(r"[^\w.-]+", "-", name)).strip(".-")
    return cleaned.removesuffix(".lock") or "run"


def _find_head(root: Path) -> str:
    if shutil.which("git") is None:
        raise _NotSavedError("git is not installed")
    try:
        _git(root, "rev-parse", "--git-dir")
    except _NotSavedError as error:
        if "not a git repository" not in str(error):
            raise
        raise _NotSavedError("the project is in no git repository") from None
    head = _ask_git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if head is None:
        raise _NotSavedError("the repository has no commit yet: `git add` the project and commit")
    if _ask_git(root, "ls-files", "--error-unmatch", "dvc.yaml") is None:
        raise _NotSavedError("`dvc.yaml` is not in git: `git add` the project and commit")
    return head


def _list_files(repo: Any) -> list[str]:
    """List what belongs to a run besides what git tracks: small results, and code not yet added."""
    stages = list(repo.index.stages)
    found = {out.fs_path for stage in stages for out in stage.outs if not out.use_cache}
    found |= {dep.fs_path for stage in stages for dep in stage.deps if dep.fs_path.endswith(".py")}
    found |= {f"{repo.root_dir}/{name}" for name in ("dvc.lock", "dvc.yaml", "params.yaml")}
    return sorted(path for path in found if Path(path).is_file())


def _write_tree(root: Path, files: list[str]) -> str:
    """Write the workspace's state as a git tree, by an index of its own."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        current = root / _git(root, "rev-parse", "--git-path", "index")
        if current.exists():
            shutil.copyfile(current, index)
        environment = {"GIT_INDEX_FILE": str(index)}
        _git(root, "add", "--update", environment=environment)
        inside = "\0".join(file for file in files if Path(file).is_relative_to(root))
        options = ("--force", "--pathspec-from-file=-", "--pathspec-file-nul")
        _git(root, "--literal-pathspecs", "add", *options, environment=environment, text=inside)
        return _git(root, "write-tree", environment=environment)


@dataclass(frozen=True)
class _Experiment:
    name: str
    baseline: str
    tree: str


def _list_experiments(root: Path) -> list[_Experiment]:
    """List the experiments of all baselines, the newest first."""
    text = _git(
        root,
        "for-each-ref",
        "--sort=-committerdate",
        "--format=%(refname) %(tree)",
        "refs/exps/*/*/*",
    )
    found = []
    for line in text.splitlines():
        place, tree = line.split(" ")
        _, _, first, rest, name = place.split("/")
        found.append(_Experiment(name, first + rest, tree))
    return found


def _git(
    root: Path, *arguments: str, environment: Mapping[str, str] | None = None, text: str | None = None
) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        env={**os.environ, "LC_ALL": "C", **(environment or {})},
        input=text,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason was given"]
        raise _NotSavedError(f"git {arguments[0]}: {said[-1].removeprefix('fatal: ')}")
    return done.stdout.strip()


def _ask_git(root: Path, *arguments: str) -> str | None:
    """Ask git; None where it refuses."""
    try:
        return _git(root, *arguments)
    except _NotSavedError:
        return None
