"""A model of MLflow behind HTTP, with limits: as ``mlflow models serve`` answers, but only so much at a time.

MLflow's own server reads a body of any length into memory, and begins with every request at once. Here a
body over a limit is refused while it arrives, and requests wait in line for their turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import console
from tasks.errors import UserError
from tasks.tracking_model import download_model
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import uvicorn

MEGABYTE = 2**20
BACKLOG = 128  # requests that wait; more are refused at once
LINGER_S = 30.0  # how long the rest of a body that was refused is taken, and dropped

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Limits:
    """Hands requests on to an ASGI app: bodies of so many bytes at most, so many at a time, in their order.

    Parameters
    ----------
    app : ASGI app
    max_bytes : int
        Larger bodies are answered by status 413.
    at_once : int
        Requests that the app works on; others wait.
    """

    def __init__(self, app: App, *, max_bytes: int, at_once: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._turns = asyncio.Semaphore(at_once)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body, more = await self._read(scope, receive)
        if body is None:
            await self._refuse(receive if more else None, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        async with self._turns:
            await self._app(scope, replay, send)

    async def _read(self, scope: MutableMapping[str, Any], receive: Receive) -> tuple[bytes | None, bool]:
        """Read the body, None as soon as it is too long; and whether more of it is to come."""
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._max_bytes:
            return None, True
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                return None, more
            if not more:
                return bytes(body), False

    async def _refuse(self, rest: Receive | None, send: Send) -> None:
        said = f"a body holds at most {self._max_bytes / MEGABYTE:g} MiB: send fewer or smaller pictures"
        content = json.dumps({"error": said}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": True})
        if rest is not None:
            # callers that listen only once they have sent all would meet a broken pipe instead of the answer
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    while (await rest()).get("more_body", False):
                        pass
        await send({"type": "http.response.body", "body": b""})


def build_server(app: Limits, *, backlog: int = BACKLOG) -> uvicorn.Server:
    """Build the HTTP server of an app.

    Parameters
    ----------
    app : Limits
    backlog : int
        Connections that are held; more are answered by status 503.

    Returns
    -------
    uvicorn.Server
        Not listening yet.
    """
    import uvicorn

    return uvicorn.Server(uvicorn.Config(app, log_level="warning", limit_concurrency=backlog))


def serve_model(named: str, root: Path, *, host: str, port: int, max_megabytes: float, at_once: int) -> None:
    """Serve a model until it is stopped.

    Parameters
    ----------
    named : str
        ``models:/NAME@champion``, ``runs:/RUN/segmenter``, or a folder with ``MLmodel``.
    root : Path
        The workspace whose MLflow is asked.
    host, port
        Where to listen.
    max_megabytes : float
        Of a request's body.
    at_once : int
        Requests that are worked on at a time.

    Raises
    ------
    UserError
        No such model, or the port is taken.
    """
    from mlflow.pyfunc import load_model, scoring_server

    with socket.socket() as listener, tempfile.TemporaryDirectory(prefix="dsrg-model-") as place:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            raise UserError(
                f"{host}:{port} cannot be had ({error.strerror}): choose another --port"
            ) from None
        folder = Path(named).expanduser()
        if not (folder / "MLmodel").is_file():
            if folder.exists():
                raise UserError(
                    f"`{named}` holds no MLmodel: name a folder that does, or models:/NAME@champion"
                )
            folder = download_model(named, Workspace(root), Path(place))
        # as its own command does: it tells `ServedSegmenter` that paths would be the server's own
        os.environ[scoring_server._SERVER_MODEL_PATH] = str(folder)
        app = scoring_server.init(load_model(str(folder)))
        limited = Limits(app, max_bytes=int(max_megabytes * MEGABYTE), at_once=at_once)
        address = "http://{}:{}".format(*listener.getsockname()[:2])
        console.say(f"{named} answers at {address}/invocations; Ctrl-C ends it")
        build_server(limited).run(sockets=[listener])
