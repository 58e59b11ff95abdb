"""Where files lie, and how they appear whole or not at all.

A stage builds its outputs under ``.work/STAGE/FINGERPRINT/`` and renames them into place when they
are complete. That folder survives a kill: the same work started again finds its checkpoints and its
finished shards there, and other work does not, because the fingerprint covers params, inputs and code.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tasks.errors import UserError

WORK = ".work"
_PUBLISHING = "publishing"
_CODE_ROOTS = ("dsrg", "tasks")


@contextlib.contextmanager
def replace_whole(place: Path, *, mark: str = "partial", drafts: Path | None = None) -> Iterator[Path]:
    """Give a path beside `place` to write a file to, which then takes its place: whole or not at all.

    Parameters
    ----------
    place : Path
        Its folder is made if there is none.
    mark : str
        Ends the name of the path: something of one's own where several may write at once.
    drafts : Path, optional
        The path is in this folder instead, which is on the same file system.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = (drafts or place.parent) / f".{place.name}.{mark}"
    try:
        yield partial
        if not partial.is_symlink():
            _sync_tree(partial)
        os.replace(partial, place)
    finally:
        partial.unlink(missing_ok=True)


class StageWork:
    """The private folder of one stage's work; made by :meth:`Workspace.stage`.

    Attributes
    ----------
    directory : Path
        Survives a kill; checkpoints live here.
    digest : str
        Provenance of what the stage makes: sha256 of its name, its params and its inputs' digests.
        Written into the ``digest`` attribute of derived stores. Knows nothing of code or machine.
    root : Path
        The workspace.
    """

    def __init__(self, directory: Path, root: Path, digest: str) -> None:
        self.directory = directory
        self.digest = digest
        self.root = root
        self._marks = directory / "done"

    def partial(self, name: str) -> Path:
        """Path to build an output at; may hold what an earlier, killed attempt wrote."""
        path = self.directory / "partial" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def is_done(self, unit: str) -> bool:
        """Tell whether a unit of work was marked as done, by this or an earlier attempt."""
        return (self._marks / unit).exists()

    def mark_done(self, unit: str) -> None:
        """Mark a unit of work, such as a shard, as done; what it wrote must be on disk before."""
        mark = self._marks / unit
        mark.parent.mkdir(parents=True, exist_ok=True)
        with mark.open("w") as file:
            os.fsync(file.fileno())
        _sync_folder(mark.parent)

    def publish(self, name: str, target: Path | str) -> Path:
        """Move the finished partial output `name` to `target`, replacing what was there.

        Parameters
        ----------
        name : str
            As given to :meth:`partial`.
        target : Path or str
            Relative to the workspace.

        Returns
        -------
        Path
            The output in its place.
        """
        (self.directory / _PUBLISHING).touch()
        place = self.root / target
        place.parent.mkdir(parents=True, exist_ok=True)
        source = _bring_near(self.partial(name), place)
        _sync_tree(source)
        replaced = place.with_name(f".{place.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if place.is_dir() and not place.is_symlink():
            place.rename(replaced)
        os.replace(source, place)
        _sync_folder(place.parent)
        shutil.rmtree(replaced, ignore_errors=True)
        return place


class Workspace:
    """A folder with ``params.yaml``, ``data/``, ``metrics/`` and ``.work/``.

    Parameters
    ----------
    root : Path
        The folder; made absolute.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def path(self, relative: Path | str) -> Path:
        """Make a path below the workspace absolute."""
        return self.root / relative

    @contextlib.contextmanager
    def stage(self, name: str, *, fingerprint: Mapping[str, Any]) -> Iterator[StageWork]:
        """Open the work folder of stage `name`; removed on a clean exit, kept on any exception.

        Work of the same stage with another fingerprint (other params, inputs or code) is removed.

        Parameters
        ----------
        name : str
            Stage, with its round: ``train@1``.
        fingerprint : mapping
            Everything the result depends on but code: the stage's params, digests of input stores.
            Nothing volatile. Values as for JSON.

        Raises
        ------
        UserError
            Another process is working on this stage here.
        """
        digest = _hash_json({"stage": name, **fingerprint})
        home = self.root / WORK / name
        home.mkdir(parents=True, exist_ok=True)
        with _lock(home / "lock", name):
            directory = home / _hash_json({"digest": digest, "code": hash_code()})[:16]
            for other in home.iterdir():
                if other.is_dir() and other != directory:
                    shutil.rmtree(other)
            if (directory / _PUBLISHING).exists():  # killed there: marks speak of outputs that moved away
                shutil.rmtree(directory)
            directory.mkdir(exist_ok=True)
            yield StageWork(directory, self.root, digest)
            ended = directory.rename(home / "ended")  # at once: half of a work folder must never be taken up
            shutil.rmtree(ended)

    def write_json(self, relative: Path | str, values: Any) -> Path:
        """Write a JSON file at once: sorted keys, floats of 6 digits, not-a-number as null."""
        place = self.root / relative
        text = json.dumps(_round_floats(values), indent=2, sort_keys=True, allow_nan=False) + "\n"
        with replace_whole(place, mark=str(os.getpid())) as partial:
            partial.write_text(text, encoding="utf-8")
        return place

    def read_json(self, relative: Path | str, *, stage: str) -> Any:
        """Read a JSON file that `stage` writes.

        Raises
        ------
        UserError
            Missing or unreadable; the message names the command that makes it.
        """
        place = self.root / relative
        try:
            return json.loads(place.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"`{relative}` not found. Run: dvc repro {stage}") from None
        except json.JSONDecodeError as error:
            raise UserError(f"`{relative}` is no valid JSON ({error}). Run: dvc repro -f {stage}") from None


def hash_code() -> str:
    """Hash the source code of the algorithm and the stages."""
    project = Path(__file__).resolve().parent.parent
    code = hashlib.sha256()
    for folder in _CODE_ROOTS:
        for file in sorted((project / folder).rglob("*.py")):
            code.update(f"{file.relative_to(project)}\0".encode())
            code.update(file.read_bytes())
    return code.hexdigest()


@contextlib.contextmanager
def _lock(path: Path, name: str) -> Iterator[TextIO]:
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(
                f"`{name}` is being worked on here by process {holder}: wait for it to end, or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file


def _hash_json(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _round_floats(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key): _round_floats(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_round_floats(value) for value in values]
    if hasattr(values, "tolist"):
        return _round_floats(values.tolist())
    if isinstance(values, float):
        return round(values, 6) if math.isfinite(values) else None
    return values


def _bring_near(source: Path, place: Path) -> Path:
    """Copy a finished output to the disk of its place where that is another one: renames cannot."""
    if _share_disk(source, place.parent):
        return source
    near = place.with_name(f".{place.name}.partial")
    try:
        if source.is_dir():
            shutil.rmtree(near, ignore_errors=True)
            shutil.copytree(source, near)
        else:
            shutil.copyfile(source, near)
    except shutil.Error as error:
        shutil.rmtree(near, ignore_errors=True)
        _, target, reason = error.args[0][0]
        raise UserError(f"`{target}` cannot be written: {reason.partition(': ')[0]}") from None
    return near


def _share_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _sync_tree(path: Path) -> None:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for place in files:
        with place.open("rb") as file:
            os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
