"""What MLflow could not be told, on disk until it can: one folder per run that was cut off.

``.work/mlflow-spool/TIME-PROCESS/`` holds ``run.json`` (which run), ``entries.jsonl`` (what was to be
written, one JSON line each, only ever appended) and ``files/``. A folder is locked by the process that
writes it; once that has ended, whoever next reaches MLflow delivers it and removes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tasks.workspace import WORK

FOLDER = f"{WORK}/mlflow-spool"
Entry = dict[str, Any]


class Spool:
    """The entries of one run that MLflow does not take; the folder is made with the first of them.

    Parameters
    ----------
    home : Path
        Project that the run belongs to.
    uri : str
        Where the entries are meant to go.
    target : mapping
        Names the run, as for JSON.
    """

    def __init__(self, home: Path, uri: str, target: Mapping[str, Any]) -> None:
        self._home = home
        self._about = {"uri": uri, "target": dict(target)}
        self._folder: Path | None = None
        self._lock: TextIO | None = None

    def append(self, entry: Entry, *, run_id: str | None) -> None:
        """Keep an entry; files that it names are copied.

        Parameters
        ----------
        entry : dict
            ``files``, if it has it, maps the name in MLflow to a path.
        run_id : str or None
            MLflow's id of the run, if it got one before the line was cut.
        """
        folder = self._folder or self._make(run_id)
        if "files" in entry:
            kept = {name: _keep(Path(path), folder) for name, path in entry["files"].items()}
            entry = {**entry, "files": kept}
        with (folder / "entries.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        """Let the entries be delivered by others from here on."""
        if self._lock is not None:
            self._lock.close()

    def _make(self, run_id: str | None) -> Path:
        folder = self._home / FOLDER / f"{time.time_ns()}-{os.getpid()}"
        (folder / "files").mkdir(parents=True)
        self._lock = _try_lock(folder)
        self._folder = folder
        (folder / "run.json").write_text(json.dumps({**self._about, "run_id": run_id}), encoding="utf-8")
        return folder


def _keep(path: Path, folder: Path) -> str:
    number = sum(1 for _ in (folder / "files").iterdir())
    kept = folder / "files" / f"{number:04d}-{path.name}"
    shutil.copyfile(path, kept)
    return str(kept.relative_to(folder))


def list_waiting(home: Path, uri: str) -> list[Path]:
    """List the folders that wait for an MLflow, oldest first."""
    place = home / FOLDER
    folders = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
    return [folder for folder in folders if (_read_about(folder) or {}).get("uri") == uri]


def deliver(
    home: Path, uri: str, write: Callable[[Mapping[str, Any], str | None, Sequence[Entry]], None]
) -> int:
    """Hand what waits for an MLflow to `write`, run by run; return how many runs were delivered.

    What a living process is still writing is left alone. If `write` fails, its run and later ones go
    on waiting, so `write` must bear being handed the same entries again.

    Parameters
    ----------
    home : Path
    uri : str
    write : callable
        Called with the target, the run's id (None if it has none yet) and its entries.
    """
    done = 0
    for folder in list_waiting(home, uri):
        lock = _try_lock(folder)
        about = _read_about(folder)
        if lock is None or about is None:
            continue
        with lock:
            write(about["target"], about["run_id"], list(_read_entries(folder)))
            shutil.rmtree(folder)
        done += 1
    return done


def drop_superseded(home: Path, uri: str, target: Mapping[str, Any]) -> None:
    """Remove what waits for a run that is about to be written as a whole."""
    for folder in list_waiting(home, uri):
        lock = _try_lock(folder)
        if lock is not None:
            with lock:
                if _names_same_run((_read_about(folder) or {}).get("target"), target):
                    shutil.rmtree(folder)


def _names_same_run(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    return one is not None and all(one[key] == other[key] for key in ("experiment", "study", "stage"))


def _read_about(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return None  # killed before it kept anything, or delivered just now


def _read_entries(folder: Path) -> Iterator[Entry]:
    try:
        lines = (folder / "entries.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return
    for line in lines:
        if line.endswith("\n"):  # a killed process may leave half a line
            entry = json.loads(line)
            if "files" in entry:
                entry["files"] = {name: str(folder / kept) for name, kept in entry["files"].items()}
            yield entry


def _try_lock(folder: Path) -> TextIO | None:
    try:
        file = (folder / "lock").open("w", encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
