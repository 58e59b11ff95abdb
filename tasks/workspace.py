"""Where files lie, and how they appear whole or not at all.

A stage builds its outputs under ``.work/STAGE/FINGERPRINT/`` and renames them into place when they
are complete. That folder survives a kill: the same work started again finds its checkpoints and its
finished shards there, and other work does not, because the fingerprint covers params, inputs and code.

Zarr stores may lie under a URL instead: they are built there, under a name that no other attempt has, and a
note takes their place here when they are complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from dsrg.places import (
    PlaceError,
    find_equal,
    is_remote,
    is_url,
    parse_place,
    read_note,
    remove_tree,
    write_manifest,
)
from tasks.errors import UserError

NO_STORES = "none"

WORK = ".work"
_PUBLISHING = "publishing"
AWAY = "away.json"  # where the stores that are built under a URL lie
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

    def __init__(self, directory: Path, root: Path, digest: str, *, stores: str) -> None:
        self.directory = directory
        self.digest = digest
        self.root = root
        self._stores = stores
        self._marks = directory / "done"

    def partial(self, name: str) -> Path:
        """Path to build an output at; may hold what an earlier, killed attempt wrote.

        A Zarr store's may be a URL: ``upath.UPath``.
        """
        if self._stores != NO_STORES and name.endswith(".zarr"):
            return self._find_away(name)
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
        source = self.partial(name)
        if is_remote(source):
            return self._publish_away(source, self.root / target)
        (self.directory / _PUBLISHING).touch()
        place = self.root / target
        place.parent.mkdir(parents=True, exist_ok=True)
        source = _bring_near(source, place)
        _sync_tree(source)
        replaced = place.with_name(f".{place.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if place.is_dir() and not place.is_symlink():
            place.rename(replaced)
        elif source.is_dir():
            place.unlink(missing_ok=True)  # a note: folders replace no files
        os.replace(source, place)
        _sync_folder(place.parent)
        shutil.rmtree(replaced, ignore_errors=True)
        return place

    def _find_away(self, name: str) -> Path:
        """Find where a store is built under the URL for stores; a new place if this work has none yet."""
        away = _read_away(self.directory)
        if name not in away:
            about = self.directory.parent.name.replace("@", "-")
            token = secrets.token_hex(8)  # another attempt, or another project, must never write there too
            away[name] = f"{self._stores.rstrip('/')}/{about}/{self.directory.name}-{token}/{name}"
            with replace_whole(self.directory / AWAY) as partial:
                partial.write_text(json.dumps(away), encoding="utf-8")
        return parse_place(away[name])

    def _publish_away(self, source: Path, place: Path) -> Path:
        """Put a note in the place of a store under a URL: about an equal one, if there was one before.

        Equal notes let DVC skip what comes after. What was built for nothing is removed with this work.
        """
        note = find_equal(write_manifest(source), self._stores)
        (self.directory / _PUBLISHING).touch()
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        with replace_whole(place) as partial:
            partial.write_text(note.format(), encoding="utf-8")
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
        """Make a path below the workspace absolute; a URL becomes a ``upath.UPath``."""
        return parse_place(relative) if is_url(relative) else self.root / relative

    @contextlib.contextmanager
    def stage(
        self, name: str, *, fingerprint: Mapping[str, Any], stores: str = NO_STORES
    ) -> Iterator[StageWork]:
        """Open the work folder of stage `name`; removed on a clean exit, kept on any exception.

        Work of the same stage with another fingerprint (other params, inputs or code) is removed.

        Parameters
        ----------
        name : str
            Stage, with its round: ``train@1``.
        fingerprint : mapping
            Everything the result depends on but code: the stage's params, digests of input stores.
            Nothing volatile. Values as for JSON.
        stores : str
            The param ``compute.stores``: the URL below which Zarr stores are built, or ``none``.

        Raises
        ------
        UserError
            Another process is working on this stage here.
        """
        digest = _hash_json({"stage": name, **fingerprint})
        home = self.root / WORK / name
        home.mkdir(parents=True, exist_ok=True)
        with _lock(home / "lock", name):
            away = {} if stores == NO_STORES else {"stores": stores}  # what was begun elsewhere is begun anew
            directory = home / _hash_json({"digest": digest, "code": hash_code(), **away})[:16]
            for other in home.iterdir():
                if other.is_dir() and other != directory:
                    self._remove_work(other)
            if (directory / _PUBLISHING).exists():  # killed there: marks speak of outputs that moved away
                self._remove_work(directory)
            directory.mkdir(exist_ok=True)
            yield StageWork(directory, self.root, digest, stores=stores)
            ended = directory.rename(home / "ended")  # at once: half of a work folder must never be taken up
            self._remove_work(ended)

    def _remove_work(self, directory: Path) -> None:
        """Remove a work folder, and what it built under a URL that no note names."""
        away = _read_away(directory)
        noted = _list_noted(self.root / "data") if away else set()
        for url in away.values():
            if url not in noted:
                try:
                    remove_tree(parse_place(url))
                except PlaceError as error:
                    from tasks import console

                    console.warn(f"`{url}` is of no use any more and is left behind: {error}")
        shutil.rmtree(directory)

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


def _read_away(directory: Path) -> dict[str, str]:
    """Read where the stores lie that a work folder builds under a URL."""
    try:
        return dict(json.loads((directory / AWAY).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _list_noted(folder: Path) -> set[str]:
    """List the URLs of all stores that a note below a folder names."""
    notes = (read_note(place) for place in [*folder.glob("*.zarr"), *folder.glob("rounds/*/*.zarr")])
    return {note.store for note in notes if note is not None}


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
