"""One lock per workspace, taken by both doors, so that no two runs write the same files.

``dsrg run`` holds ``.work/lock`` from before it edits ``params.yaml`` until its last stage has ended;
the stages that its DVC runs belong to it. A stage started by a bare ``dvc repro`` or ``python -m
tasks`` holds it for as long as it works. Only the system's own lock on the file (flock) decides: it
ends with its holder, however that dies. What the file says is for people.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks import console
from tasks.errors import UserError
from tasks.workspace import WORK

HELD = "DSRG_WORKSPACE_LOCK"  # token of the holder that this process works for
WAIT = "DSRG_WAIT"
_POLL_SECONDS = 0.2
_SIGNING_SECONDS, _SIGNING_TRIES = 0.05, 10
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_held: set[int] = set()


class WorkspaceBusyError(UserError):
    """Another run works in this workspace; the message says who, since when, and how to wait."""


@dataclass(frozen=True)
class Holder:
    """Who holds a workspace, as it wrote itself into the lock file.

    Attributes
    ----------
    what : str
        ``dsrg run``, or a stage: ``train@2``.
    pid : int
        Its process, on `host`.
    host : str
    since : str
        ISO 8601, UTC.
    token : str
        Handed to the processes that work for the holder.
    """

    what: str
    pid: int
    host: str
    since: str
    token: str

    def __str__(self) -> str:
        start = datetime.fromisoformat(self.since).astimezone()
        today = start.date() == datetime.now().astimezone().date()
        place = "" if self.host == socket.gethostname() else f" on {self.host}"
        since = start.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")
        return f"`{self.what}` (process {self.pid}{place}) since {since}"


@contextlib.contextmanager
def hold_workspace(root: Path, what: str, *, wait: bool | None = None) -> Iterator[int | None]:
    """Hold the workspace's lock.

    Parameters
    ----------
    root : Path
        The workspace.
    what : str
        Shown to whoever comes second: ``dsrg run``, ``train@2``.
    wait : bool, optional
        Wait for the holder instead of failing; left out, ``DSRG_WAIT=1`` decides.

    Yields
    ------
    int or None
        The lock's descriptor, for a child process that is to keep the lock (:func:`keep_lock`). None
        where the process that this one works for holds the lock.

    Raises
    ------
    WorkspaceBusyError
        Another run holds it.
    """
    place = _locate(root)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = _acquire(place, what, wait=os.environ.get(WAIT) == "1" if wait is None else wait)
    if lock is None:
        yield None
        return
    before = os.environ.get(HELD)
    try:
        os.environ[HELD] = _take_over(lock, place, what)
    except BaseException:  # a full disk, for one
        _close(lock)
        raise
    try:
        yield lock
    finally:
        os.environ.pop(HELD)
        if before is not None:
            os.environ[HELD] = before
        _wanted(place).unlink(missing_ok=True)
        os.truncate(lock, 0)
        _close(lock)


def keep_lock(lock: int) -> None:
    """Keep, in a child process, the lock whose descriptor was handed to it, until it ends."""
    os.set_inheritable(lock, False)
    _held.add(lock)


def find_holder(root: Path) -> Holder | None:
    """Find out who holds a workspace; None if nobody does, whatever the file says."""
    place = _locate(root)
    try:
        lock = _open(place, os.O_RDONLY)  # also where one may look only
    except FileNotFoundError:
        return None
    try:
        return None if _try(lock, fcntl.LOCK_SH) else _read_anew(place)
    finally:
        _close(lock)


def wait_until_free(root: Path) -> None:
    """Wait until nobody holds the workspace."""
    holder = find_holder(root)
    if holder is not None:
        console.say(f"waiting for {holder}")
    while find_holder(root) is not None:
        time.sleep(_POLL_SECONDS)


def ask_for(root: Path, stage: str) -> None:
    """Ask a stage that waits for this process, and holds what this process needs in DVC, to give way."""
    wanted = _wanted(_locate(root))
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted.write_text(stage, encoding="utf-8")


def _acquire(place: Path, what: str, *, wait: bool) -> int | None:
    lock = _open(place, os.O_RDWR | os.O_CREAT)
    try:
        if not _try(lock):
            holder = _find_rival(lock, place)
            if holder is not None:
                if holder.token and holder.token == os.environ.get(HELD):
                    _close(lock)
                    return None
                if not wait:
                    raise WorkspaceBusyError(_explain(place, holder, what))
                console.say(f"{what}: waiting for {holder}")
                while not _try(lock):
                    _give_way(place, what)
                    time.sleep(_POLL_SECONDS)
        if not (place.exists() and os.path.samestat(os.fstat(lock), place.stat())):  # .work was removed
            _close(lock)
            place.parent.mkdir(parents=True, exist_ok=True)
            return _acquire(place, what, wait=wait)
    except BaseException:
        _close(lock)
        raise
    return lock


def _find_rival(lock: int, place: Path) -> Holder | None:
    """Find out who holds the lock that was not to be had; None if it is had by now.

    Nobody may really hold it: whoever asks if it is free holds it for an instant, whoever has only just
    taken it has not signed yet, and until then the file still says who died with it.
    """
    holder = _read(place)
    if holder is not None and holder.token == os.environ.get(HELD):
        return holder
    for _ in range(_SIGNING_TRIES):
        time.sleep(_SIGNING_SECONDS)
        if _try(lock):
            return None
        holder = _read(place)
        if holder is not None:
            return holder
    return _unknown()


def _take_over(lock: int, place: Path, what: str) -> str:
    """Sign a lock just taken, at once, and clear up after a holder that died; return the token."""
    dead = _read(place)
    token = _sign(lock, what)
    _wanted(place).unlink(missing_ok=True)
    if dead is not None:
        console.say(f"{what}: the lock of {dead} is stale, nobody holds it: taken over")
    return token


def _give_way(place: Path, what: str) -> None:
    """End a wait inside of DVC, which blocks this stage's files, if the holder has come to this stage."""
    wanted = _wanted(place)
    if "DVC_STAGE" in os.environ and wanted.exists() and wanted.read_text(encoding="utf-8") == what:
        wanted.unlink(missing_ok=True)
        raise WorkspaceBusyError(
            f"{_read_anew(place)} has come to {what} itself: run `dsrg wait`, then start again"
        )


def _explain(place: Path, holder: Holder, what: str) -> str:
    way = "dsrg run --wait" if what == "dsrg run" else "dsrg wait"
    return f"`{place.parent.parent}` is in use by {holder}: `{way}` waits for it to end; or stop it"


def _locate(root: Path) -> Path:
    return root.resolve() / WORK / "lock"


def _wanted(place: Path) -> Path:
    return place.with_name("wanted")


def _open(place: Path, flags: int) -> int:
    lock = os.open(place, flags, 0o666)
    _held.add(lock)
    return lock


def _close(lock: int) -> None:
    if lock in _held:
        _held.remove(lock)
        os.close(lock)


def _try(lock: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise UserError(
            f"the disk of `{WORK}/lock` knows no locks ({error.strerror}): put the project on one that does, "
            "such as a local one"
        ) from error
    return True


def _sign(lock: int, what: str) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    holder = Holder(what, os.getpid(), socket.gethostname(), now, uuid.uuid4().hex)
    os.truncate(lock, 0)
    os.pwrite(lock, (json.dumps(asdict(holder)) + "\n").encode(), 0)
    return holder.token


def _read(place: Path) -> Holder | None:
    try:
        return Holder(**json.loads(place.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):  # none, or not all of it yet
        return None


def _read_anew(place: Path) -> Holder:
    """Read who holds a lock that is held; whoever has only just taken it has not signed yet."""
    for _ in range(_SIGNING_TRIES):
        holder = _read(place)
        if holder is not None:
            return holder
        time.sleep(_SIGNING_SECONDS)
    return _unknown()


def _unknown() -> Holder:
    return Holder("another run", 0, socket.gethostname(), datetime.now(UTC).isoformat(), "")


def _drop_in_fork() -> None:
    """Close the locks in a forked process: one that outlives the holder must not keep them."""
    for lock in list(_held):
        _close(lock)


os.register_at_fork(after_in_child=_drop_in_fork)
