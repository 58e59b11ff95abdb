"""Pseudo-labels of any run and round, brought back beside the current ones."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.versioning import VersioningError, open_repo
from tasks.errors import UserError

LABELS = "data/rounds/{}/pseudo_labels.zarr"
RESTORED = "restored"
WORKSPACE = "workspace"
_SHOWN = 8


@dataclass(frozen=True)
class LabelledRun:
    """A run whose pseudo-labels DVC knows.

    Attributes
    ----------
    name : str
        Of the experiment; ``workspace`` for what lies in ``data/`` now.
    rounds : tuple of str
        Rounds with pseudo-labels, in order.
    here : tuple of str
        Those that are in the cache of this machine; the others need a remote.
    """

    name: str
    rounds: tuple[str, ...]
    here: tuple[str, ...]


def list_labels(root: Path) -> list[LabelledRun]:
    """List the runs whose pseudo-labels can be brought back: the workspace, then experiments by name."""
    with open_repo(root) as repo:
        found = [_describe(repo, WORKSPACE, _read_lock(repo))]
        for name in _list_experiments(repo):
            with _switch(repo, name):
                found.append(_describe(repo, name, _read_lock(repo)))
    return [run for run in found if run.rounds]


def restore_labels(root: Path, run: str, *, round_key: str | None = None, folder: Path | None = None) -> Path:
    """Bring the pseudo-labels of a run back, as a copy beside the current ones.

    Parameters
    ----------
    root : Path
        The project.
    run : str
        Experiment, branch, tag or commit.
    round_key : str, optional
        The last round if left out.
    folder : Path, optional
        Where to put ``pseudo_labels.zarr``; ``restored/RUN/round-R`` below `root` if left out.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    VersioningError
        Unknown run or round, or labels that are neither in the cache nor in a remote.
    UserError
        There is something at the place already; nothing is overwritten.
    """
    from dvc.exceptions import DvcException
    from dvc.fs import download
    from dvc_data.index import DataIndexDirError

    with open_repo(root) as repo:
        if _has_no_scm(repo):
            raise VersioningError(
                "this project is in no git repository, so no runs are kept besides the last, which lies in "
                f"{LABELS.format('R')}: `git init`, commit, and later runs are kept"
            )
        with _switch(repo, run):
            rounds = _list_rounds(_read_lock(repo))
            if not rounds:
                raise VersioningError(f"`{run}` holds no pseudo-labels: `dsrg labels list` shows what does")
            key = rounds[-1] if round_key is None else round_key
            if key not in rounds:
                raise VersioningError(f"`{run}` has no round {key}, only {', '.join(rounds)}")
            home = folder if folder is not None else root / RESTORED / run.replace("/", "-") / f"round-{key}"
            place = home / Path(LABELS).name
            if place.exists():
                raise UserError(f"`{place}` is there already: remove it, or name another place with --out")
            partial = place.with_name(f".{place.name}.{os.getpid()}")
            partial.parent.mkdir(parents=True, exist_ok=True)
            try:
                download(repo.dvcfs, f"/{LABELS.format(key)}", str(partial.resolve()))
                partial.rename(place)
            except (DvcException, DataIndexDirError, FileNotFoundError) as error:
                raise VersioningError(
                    f"the labels of `{run}`, round {key}, are neither in the cache nor in a remote: "
                    f"`dvc push` them where they are ({_shorten(error)})"
                ) from error
            finally:
                if partial.is_file():  # a note about a store elsewhere
                    partial.unlink()
                shutil.rmtree(partial, ignore_errors=True)
    return place


def _describe(repo: Any, name: str, lock: str) -> LabelledRun:
    rounds = _list_rounds(lock)
    here = tuple(key for key in rounds if _is_cached(repo, lock, key))
    return LabelledRun(name, rounds, here)


def _list_rounds(lock: str) -> tuple[str, ...]:
    """List the rounds whose pseudo-labels a ``dvc.lock`` names."""
    place = re.escape(LABELS).replace(re.escape("{}"), r"(\d+)")
    return tuple(sorted(set(re.findall(rf"path: {place}$", lock, re.MULTILINE)), key=int))


def _is_cached(repo: Any, lock: str, key: str) -> bool:
    place = re.escape(LABELS.format(key))
    found = re.search(rf"path: {place}\n(?:\s+(?!md5: |- )\S.*\n)*\s+md5: (\w\w)(\S+)", lock)
    return found is not None and (Path(repo.cache.local.path) / found[1] / found[2]).exists()


def _read_lock(repo: Any) -> str:
    place = repo.fs.join(repo.root_dir, "dvc.lock")
    if not repo.fs.exists(place):
        return ""
    with repo.fs.open(place, encoding="utf-8") as file:
        return str(file.read())


def _list_experiments(repo: Any) -> list[str]:
    from dvc.repo.experiments.utils import exp_refs

    return [] if _has_no_scm(repo) else sorted({info.name for info in exp_refs(repo.scm) if info.name})


def _has_no_scm(repo: Any) -> bool:
    from dvc.scm import NoSCM

    return isinstance(repo.scm, NoSCM)


@contextlib.contextmanager
def _switch(repo: Any, run: str) -> Iterator[None]:
    """See the project as it was in a run."""
    from dvc.scm import RevError

    config = repo.config
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(repo.switch(run))
            repo.config = config  # today's remotes, not those of then
        except RevError as error:
            names = _list_experiments(repo)
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            known = f"kept runs: {', '.join(names[:_SHOWN])}{more}" if names else "no run is kept yet"
            raise VersioningError(f"no run, tag or commit `{run}`; {known}") from error
        yield


def _shorten(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
