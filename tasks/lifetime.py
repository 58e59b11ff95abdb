"""Processes that end when the one they work for is gone, so that a killed run leaves nothing behind.

The process that a stage works for need not be its parent: DVC starts a stage through a shell, and some
shells stay in between. So whoever starts a process tells it whom to watch. Other people's programs are
started as ``python -m tasks.lifetime MODULE ARGUMENTS``.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType

WATCHED = "DSRG_ENDS_WITH"
GRACE_SECONDS = 30.0  # after which a process that was told to end is killed
_POLL_SECONDS = 0.5


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; what Ctrl-C would end in good order ends so too."""


def raise_on_sigterm() -> None:
    """Have SIGTERM raise :class:`Terminated`, once: those that follow do not disturb the end."""
    signal.signal(signal.SIGTERM, _raise_terminated)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def watched_by_children() -> Mapping[str, str]:
    """Make the variable that tells a child process to end with this one, see :func:`end_with_starter`."""
    return {WATCHED: str(os.getpid())}


def end_with_starter() -> None:
    """End this process when the one named in its environment is gone, if one is named."""
    if WATCHED in os.environ:
        end_with(int(os.environ[WATCHED]))


def end_with(pid: int) -> None:
    """Send this process SIGTERM as soon as the process `pid` is gone, and SIGKILL if it lives on.

    Others wait for this process's end in turn, and what it may still be doing, like sending news to a server
    that is gone as well, nobody waits for.

    Parameters
    ----------
    pid : int
        Of any process on this machine. If it is gone already, the signal comes at once.
    """
    threading.Thread(target=_watch, args=(pid,), name="end-with", daemon=True).start()


def _watch(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "linux":
            watched = os.pidfd_open(pid)
            select.select([watched], [], [])
        else:
            while True:
                os.kill(pid, 0)
                time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    end_with_starter()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
