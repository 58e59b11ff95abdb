"""A Prefect server for the time of one run, where none is named.

Prefect starts one itself, but imports its server into the client's process before it begins to start it;
here it starts while the client is still being imported, a few seconds earlier. Runs are kept in the same
database, so that a server started later shows them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from flows import STARTUP_SECONDS
from flows.reach import answers
from tasks.lifetime import watched_by_children
from tasks.workspace import WORK

_HOST = "127.0.0.1"
_STOP_SECONDS = 5.0
# as Prefect has them for a server of its own: nobody looks at its pages, and it is not asked to run more
_SETTINGS = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class OwnServer:
    """A server that is starting; it listens already, and answers once it is there.

    It ends with this process; made before Prefect's client is imported, after that has told it everything.

    Parameters
    ----------
    root : Path
        Folder of the run; what the server says goes into a file below ``.work``.

    Attributes
    ----------
    url : str
        Of its API.
    log : Path
    """

    def __init__(self, root: Path) -> None:
        self.log = root / WORK / "prefect-of-run.log"
        self.log.parent.mkdir(exist_ok=True)
        with socket.create_server((_HOST, 0)) as listener, self.log.open("w", encoding="utf-8") as log:
            self.url = f"http://{_HOST}:{listener.getsockname()[1]}/api"
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tasks.lifetime", "uvicorn", "--factory"),
                    *("prefect.server.api.server:create_app", "--fd", str(listener.fileno())),
                    *("--log-level", "error", "--lifespan", "on"),
                ],
                env={**os.environ, **_SETTINGS, **watched_by_children()},
                pass_fds=[listener.fileno()],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        atexit.register(self.stop)

    def is_ready(self) -> bool:
        """Wait until it answers; False if it ended before."""
        return answers(f"{self.url}/health", seconds=STARTUP_SECONDS)

    def stop(self) -> None:
        """End it; nothing happens the second time."""
        atexit.unregister(self.stop)
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def use_server(server: OwnServer) -> Iterator[None]:
    """Make Prefect's client here, and that of every process started here, talk to a server without pages."""
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

    os.environ["PREFECT_API_URL"] = server.url
    with temporary_settings({PREFECT_API_URL: server.url, PREFECT_UI_URL: ""}):
        yield
