"""The warm process of :mod:`tasks.warm`: ``python -m tasks.warm_process SOCKET OWNER IMPORTS``."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection as addresses
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NoReturn

from tasks.lifetime import end_with
from tasks.warm import CODE, STAGES, STREAMS, Request

_READ_ON_IMPORT = (
    *("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "NUMBA_", "TORCH", "PYTORCH_", "MLFLOW_"),
    *("PYTHON", "LD_", "MALLOC_", "LC_", "LANG", "TZ", "HOME", "XDG_", "CUDA_", "MPL"),
)
_PATIENCE = 5.0  # seconds for a request to arrive

Stat = tuple[int, int]


@dataclass
class _Child:
    """A stage at work: its process, a descriptor of that, and the connection to whoever waits for it."""

    pid: int
    watched: int
    connection: socket.socket
    ended: bool = False

    def end(self, *, kill: bool) -> None:
        """Wait for it, kill it before that if nobody waits for it any more, and tell how it ended."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        _reply(self.connection, status=os.waitstatus_to_exitcode(status))
        self.connection.close()
        os.close(self.watched)
        self.ended = True


class _Warm:
    """The process that has imported everything."""

    def __init__(self, listener: socket.socket, owner: int, environment: Mapping[str, str]) -> None:
        self.listener = listener
        self.owner = os.pidfd_open(owner)
        self.environment = environment
        self.files = dict(_list_code())
        self.children: list[_Child] = []

    def serve(self) -> Request | None:
        """Serve until the owner is gone and all stages have ended; in a forked child, return its request."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            selector.register(self.owner, selectors.EVENT_READ)
            while self.owner in selector.get_map() or self.children:
                for key, _ in selector.select():
                    if key.fileobj == self.owner:
                        selector.unregister(self.owner)
                    elif key.fileobj is self.listener:
                        connection, _ = self.listener.accept()
                        request = self._receive(connection)
                        if request is None:
                            connection.close()
                            continue
                        child = self._fork(connection, request)
                        if child is None:
                            return request
                        selector.register(child.watched, selectors.EVENT_READ, child)
                        selector.register(child.connection, selectors.EVENT_READ, child)
                    elif not key.data.ended:
                        child = key.data
                        selector.unregister(child.watched)
                        selector.unregister(child.connection)
                        child.end(kill=key.fileobj is child.connection)
                        self.children.remove(child)
        return None

    def _fork(self, connection: socket.socket, request: Request) -> _Child | None:
        """Fork a child, None in the child itself."""
        pid = os.fork()
        if pid == 0:
            for own in (self.listener, connection, *(child.connection for child in self.children)):
                own.close()
            for descriptor in (self.owner, *(child.watched for child in self.children)):
                os.close(descriptor)
            return None
        for descriptor in request.descriptors:
            os.close(descriptor)
        child = _Child(pid, os.pidfd_open(pid), connection)
        self.children.append(child)
        _reply(connection, pid=pid)
        return child

    def _receive(self, connection: socket.socket) -> Request | None:
        """Receive a request; None if it is none, or none for this process."""
        connection.settimeout(_PATIENCE)
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, len(STREAMS))
            while data and not data.endswith(b"\n"):
                data += connection.recv(1 << 20)
        except OSError:
            return None
        connection.settimeout(None)
        if data and len(descriptors) == len(STREAMS):
            request = Request(**json.loads(data), descriptors=tuple(descriptors))
            if self._would_be_the_same(request):
                return request
            _reply(connection, refused=True)
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def _would_be_the_same(self, request: Request) -> bool:
        return (
            request.code == str(CODE)
            and _pick(request.environment) == _pick(self.environment)
            and all(_stat(path) == known for path, known in self.files.items())
        )


def _reply(connection: socket.socket, **values: Any) -> None:
    with suppress(OSError):
        connection.sendall(json.dumps(values).encode() + b"\n")


def _pick(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_ON_IMPORT)}


def _list_code() -> Iterator[tuple[str, Stat | None]]:
    """List the project's files that were imported, with what tells whether they changed."""
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path is not None and Path(path).is_relative_to(CODE):
            yield path, _stat(path)


def _stat(path: str) -> Stat | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _become_stage(request: Request) -> int:
    """Be, in a child just forked, the process that it stands for; return its exit status."""
    os.setpgid(0, 0)
    end_with(os.getppid())
    for number, (name, descriptor) in enumerate(zip(STREAMS, request.descriptors, strict=True)):
        os.dup2(descriptor, number)
        os.close(descriptor)
        old = getattr(sys, name)
        stream = open(  # noqa: SIM115
            number, old.mode, buffering=1, encoding=old.encoding, errors=old.errors, closefd=False
        )
        setattr(sys, name, stream)
    os.environ.clear()
    os.environ.update(request.environment)
    os.umask(request.umask)
    os.chdir(request.folder)
    module = importlib.import_module(request.module)
    sys.argv = [str(module.__file__), *request.arguments]
    if request.module == STAGES.module:
        from tasks import console

        console.renew()
        trains = bool(request.arguments) and request.arguments[0] in module.TRAINING
        if trains and sys.version_info < (3, 13):
            _fork_loader_server()
    return int(module.main(request.arguments))


def _leave(status: int) -> NoReturn:
    """End as a process does, but do not take to pieces all that was imported: that takes half a second."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed, or nobody reads any more
                stream.flush()
    finally:
        os._exit(status)


def _fork_loader_server() -> None:
    """Make a fork of this process what :mod:`multiprocessing` forks loaders from: they start at once too."""
    listener = socket.socket(socket.AF_UNIX)
    address = addresses.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
    listener.bind(address)
    Path(address).chmod(0o600)
    listener.listen()
    alive, keep_alive = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(keep_alive)
            forkserver.main(listener.fileno(), alive, [])  # ends when nobody keeps it alive
        finally:
            os._exit(0)
    os.close(alive)
    listener.close()
    server: Any = forkserver._forkserver
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, keep_alive, pid


def _ready_compiler() -> None:
    """Have numba load now what it loads when a process first calls something compiled."""
    if "numba" in sys.modules:
        from numba import njit

        @njit
        def do_nothing() -> None:
            pass

        do_nothing()  # type: ignore[call-arg]


def main() -> int:
    """Import everything, then serve; in a child, run the stage and end with its status."""
    environment = dict(os.environ)
    listener = socket.socket(fileno=int(sys.argv[1]))
    place = Path(listener.getsockname())
    request = None
    try:
        for name in sys.argv[3:]:
            importlib.import_module(name)
        _ready_compiler()
        gc.collect()
        gc.freeze()  # memory that nobody writes to is shared with the children
        if threading.active_count() == 1:  # of a fork, no other thread would be part
            request = _Warm(listener, int(sys.argv[2]), environment).serve()
    finally:
        if request is None:
            place.unlink(missing_ok=True)
    if request is not None:
        _leave(_become_stage(request))
    return 0


if __name__ == "__main__":
    sys.exit(main())
