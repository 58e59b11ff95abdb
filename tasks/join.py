"""Train along with the stages of another machine: ``python -m tasks.join``, or ``dsrg join``.

Whatever is to be known, which is all that the stage's process works with, comes from there, where progress is
told of and all files are written. This machine must find the same code and the same files.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import console
from tasks.errors import UserError
from tasks.lifetime import Terminated, end_with_starter, raise_on_sigterm

if TYPE_CHECKING:
    from dsrg.meeting import Seat

POLL_SECONDS = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Join as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.join", description=__doc__.partition(":")[0])
    parser.add_argument("--root", type=Path, default=Path(), help="folder with params.yaml (default: .)")
    parser.add_argument("--once", action="store_true", help="end with the first training")
    parser.add_argument("--call", help="answer no other call than this")
    parser.add_argument("--seconds", type=float, help="end if no training waits for so long")
    options = parser.parse_args(arguments)
    raise_on_sigterm()
    end_with_starter()
    try:
        join(options.root, once=options.once, call=options.call, seconds=options.seconds)
    except KeyboardInterrupt as stop:
        return 143 if isinstance(stop, Terminated) else 130
    except UserError as error:
        console.fail(str(error))
        return 2
    return 0


def join(root: Path, *, once: bool = False, call: str | None = None, seconds: float | None = None) -> None:
    """Take part in every training of a workspace that waits for further machines.

    Parameters
    ----------
    root : Path
        The workspace, at the same place as on the machine that calls.
    once : bool
        Return after the first training; raise if it failed.
    call : str, optional
        Answer no other call than this.
    seconds : float, optional
        How long to wait for one; left out, for ever.

    Raises
    ------
    UserError
        There is no such workspace, nobody called, or this machine was refused.
    """
    root = root.resolve()
    if not (root / "params.yaml").is_file():
        raise UserError(f"`{root}` is no project here: all machines must share its folder, at the same place")
    from dsrg.meeting import MeetingError, answer_call
    from tasks.cluster import describe_code
    from tasks.meeting import read_call

    console.say(f"waits for trainings of {root}; Ctrl-C ends")
    began = time.monotonic()
    while seconds is None or time.monotonic() - began < seconds:
        found = read_call(root)
        try:
            seat = None
            if found is not None and call in (None, found.name):
                seat = answer_call(found, code=describe_code())
        except MeetingError as error:
            raise UserError(str(error)) from error
        if seat is None:
            time.sleep(POLL_SECONDS)
            continue
        console.say(f"{seat.what} of {seat.caller}: joined, machine {seat.node + 1} of {seat.nodes}")
        failure = _work(seat)
        if failure is None:
            console.say(f"{seat.what} of {seat.caller}: done")
        elif once:
            raise UserError(failure)
        else:
            console.warn(failure)
        if once:
            return
        began = time.monotonic()
    raise UserError(f"no training of `{root}` waited for this machine within {seconds:.0f} s")


def _work(seat: Seat) -> str | None:
    """Train along; return how it failed, in one line."""
    from dsrg.others import work_for
    from tasks.meeting import use_interface

    try:
        with use_interface(seat.host):
            work_for(seat)
    except Exception as error:  # noqa: BLE001 - whatever it is, the stage's process tells of it
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        return f"{seat.what} of {seat.caller} ended: {why}"
    return None


if __name__ == "__main__":
    sys.exit(main())
