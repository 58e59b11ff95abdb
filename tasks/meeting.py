"""One training over several machines: the stage calls, below ``.work/``, and the others come.

They share the project's folder. The call is a file that only its owner may read, for it holds the key with
which :mod:`tasks.join` comes; it lies there as long as the stage waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from dsrg.meeting import Call, Meeting
from dsrg.places import is_remote
from tasks import console
from tasks.cluster import describe_code
from tasks.errors import UserError
from tasks.params import Params
from tasks.workspace import WORK, replace_whole

WAIT_SECONDS = 600.0
_CALL = f"{WORK}/call.json"
_INTERFACE = "GLOO_SOCKET_IFNAME"
_SAID = re.compile(r"Nodes    waits for (\d+) more, call ([0-9a-f]+):")


@contextlib.contextmanager
def call_others(root: Path, params: Params, what: str, inputs: Sequence[Path]) -> Iterator[Meeting | None]:
    """Call for the other machines that are to train with this one; None where there are none.

    Parameters
    ----------
    root : Path
        The workspace.
    params : Params
    what : str
        What is trained: ``train@1``.
    inputs : sequence of Path
        Stores and files that all must find the same.

    Raises
    ------
    UserError
        The call cannot be written.
    """
    if params.compute.nodes == 1:
        yield None
        return
    with contextlib.ExitStack() as stack:
        place = root / _CALL

        def begin(address: str) -> None:
            place.unlink(missing_ok=True)
            stack.enter_context(use_interface(address))

        meeting = Meeting(
            what,
            nodes=params.compute.nodes,
            code=describe_code(),
            files=[_name_witness(path) for path in inputs if not is_remote(path)],  # a URL is one for all
            seconds=WAIT_SECONDS,
            on_wait=lambda missing: console.say(
                f"Nodes    waits for {missing} more, call {meeting.call.name}: dsrg join, on each machine"
            ),
            on_met=begin,
        )
        stack.callback(meeting.close)
        stack.callback(place.unlink, missing_ok=True)
        _write_call(place, meeting.call)
        yield meeting


def _name_witness(path: Path) -> Path:
    """Name the file that tells one state of a store, or a file, from another."""
    return path / "zarr.json" if path.suffix == ".zarr" else path


def _write_call(place: Path, call: Call) -> None:
    with replace_whole(place, mark=str(os.getpid())) as partial:
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(asdict(call)), encoding="utf-8")


def read_call(root: Path) -> Call | None:
    """Read who calls for others in a workspace; None if nobody does."""
    place = root / _CALL
    with contextlib.suppress(FileNotFoundError):
        next(place.parent.iterdir(), None)  # or a network file system may go by what it knew a minute ago
        try:
            values = json.loads(place.read_text(encoding="utf-8"))
            return Call(**{**values, "addresses": tuple(values["addresses"])})
        except (ValueError, TypeError, KeyError):
            raise UserError(f"`{place}` is no call of this version: run the same code everywhere") from None
    return None


def parse_call(line: str) -> tuple[int, str] | None:
    """Find in what a stage said how many machines it waits for, and by which call; None in other lines.

    Examples
    --------
    >>> parse_call("Nodes    waits for 1 more, call 3f9c: dsrg join, on each machine")
    (1, '3f9c')
    """
    found = _SAID.match(line)
    return (int(found[1]), found[2]) if found else None


@contextlib.contextmanager
def use_interface(address: str) -> Iterator[None]:
    """Have gloo, which else goes by the machine's name, talk over the interface with an address."""
    names = [
        name
        for name, entries in psutil.net_if_addrs().items()
        if any(entry.address == address for entry in entries)
    ]
    if _INTERFACE in os.environ or not names:
        yield
        return
    os.environ[_INTERFACE] = names[0]
    try:
        yield
    finally:
        os.environ.pop(_INTERFACE)


def end_stuck(error: Exception) -> None:
    """End a stage that waits in vain for another process, in a place that no exception reaches."""
    console.fail(str(error))
    sys.stdout.flush()
    os._exit(2)
