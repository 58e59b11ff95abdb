"""Machines that train together meet: one calls, the others come and are told what to do.

Whoever calls listens on a port, and tells of it in a :class:`Call`, whose key is the right to come: it is
for the eyes of those who share the project's files. The connection lasts as long as the training, so that
each end hears of the other's. Nothing that came over it is unpickled before both have shown that they hold
the key and found the same code and the same files in the same places.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import AuthenticationError, connection
from pathlib import Path
from typing import Any

import psutil

_REACH_SECONDS = 5.0
_HANDSHAKE_SECONDS = 10.0
_READ_SECONDS = 600.0  # in which the other end has compared its files
_BLOCK = 1 << 20
# a machine that lost its power or its network is gone after so many seconds: idle, between probes, probes
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 35_000}
_FAILED = (OSError, EOFError, AuthenticationError, ValueError)  # a stranger, or one that went away

Channel = connection.Connection


class MeetingError(RuntimeError):
    """Machines that were to train together do not; the message says which and why."""


@dataclass(frozen=True)
class Call:
    """Where a training waits for others, and with which key they come.

    Attributes
    ----------
    name : str
        Of this call and no other.
    what : str
        What is trained: ``train@1``.
    addresses : tuple of str
        Of the machine that calls, the likeliest first.
    port : int
    key : str
        Hexadecimal. Secret.
    """

    name: str
    what: str
    addresses: tuple[str, ...]
    port: int
    key: str


@dataclass(frozen=True)
class Seat:
    """What a machine that came is told.

    Attributes
    ----------
    what : str
        What is trained.
    node, nodes, devices : int
        Which of how many machines it is, and how many processes each has.
    store : (str, int)
        Where the processes of all find each other.
    host : str
        Address of this machine as the one that called sees it.
    caller : str
        Name of the machine that called.
    channel : Connection
        To the process that called.
    task : bytes
        What the processes are to call, pickled.
    """

    what: str
    node: int
    nodes: int
    devices: int
    store: tuple[str, int]
    host: str
    caller: str
    channel: Channel
    task: bytes


class Meeting:
    """A training that waits for others, on the machine that calls.

    Parameters
    ----------
    what : str
        What is trained.
    nodes : int
        Machines that train together, this one included.
    code : str
        Digest of the code and the packages that all must have.
    files : sequence of Path
        Files that all must find the same, such as a checkpoint; where there is none, nobody may find one.
    seconds : float
        How long to wait for the others.
    on_wait : callable
        Called with how many are missing, when the wait begins.
    on_met : callable
        Called with the address of this machine as the others see it, when all are here.
    """

    def __init__(
        self,
        what: str,
        *,
        nodes: int,
        code: str,
        files: Sequence[Path],
        seconds: float,
        on_wait: Callable[[int], None],
        on_met: Callable[[str], None],
    ) -> None:
        self.nodes = nodes
        self._code, self._files, self._seconds = code, files, seconds
        self._on_wait, self._on_met = on_wait, on_met
        self._key = secrets.token_bytes(32)
        self._listener = socket.create_server(("", 0))
        self._listener.setblocking(False)
        self.call = Call(
            secrets.token_hex(8),
            what,
            _list_addresses(),
            self._listener.getsockname()[1],
            self._key.hex(),
        )

    def close(self) -> None:
        """Let nobody come any more."""
        self._listener.close()

    def gather(
        self, task: bytes, *, devices: int, store_port: int, one_a_machine: bool
    ) -> dict[Channel, str]:
        """Wait for all others and tell them what to do.

        Parameters
        ----------
        task : bytes
        devices : int
            Processes on each machine.
        store_port : int
            On this machine.
        one_a_machine : bool
            Refuse a second one of a machine that has come: they would use the same devices.

        Returns
        -------
        dict of Connection to str
            Names of the others' machines.

        Raises
        ------
        MeetingError
            Not all came in time, or one has other code or other files.
        """
        terms = {
            "what": self.call.what,
            "nodes": self.nodes,
            "devices": devices,
            "store": store_port,
            "caller": socket.gethostname(),
            "files": {str(path): hash_file(path) for path in self._files},
        }
        others: dict[Channel, str] = {}
        self._on_wait(self.nodes - 1)
        deadline = time.monotonic() + self._seconds
        try:
            while len(others) < self.nodes - 1:
                self._wait_for_one(others, deadline)
                came = self._receive({**terms, "node": len(others) + 1}, task, others, one_a_machine)
                if came is not None:
                    others[came[0]] = came[1]
        except BaseException:
            for channel in others:
                channel.close()
            raise
        self.close()
        self._on_met(_read_own_address(next(iter(others))))
        return others

    def _wait_for_one(self, others: Mapping[Channel, str], deadline: float) -> None:
        ready = connection.wait([self._listener, *others], max(0.0, deadline - time.monotonic()))
        left = [others[channel] for channel in ready if channel in others]  # type: ignore[index]
        if left:
            raise MeetingError(f"{left[0]} went away before the training began: the same command tries again")
        if not ready:
            missing = self.nodes - 1 - len(others)
            raise MeetingError(
                f"{missing} of {self.nodes} machines did not come in {self._seconds:.0f} s: on each of them, "
                "run `dsrg join` in this folder, or set compute.nodes=1; what is finished was kept"
            )

    def _receive(
        self, terms: Mapping[str, Any], task: bytes, others: Mapping[Channel, str], one_a_machine: bool
    ) -> tuple[Channel, str] | None:
        """Let one in; None for a stranger, or one that is not needed."""
        try:
            channel = _open_channel(self._listener.accept()[0])
        except OSError:  # it has gone again
            return None
        try:
            connection.deliver_challenge(channel, self._key)
            connection.answer_challenge(channel, self._key)
            _set_patience(channel, _READ_SECONDS)
            hello = _hear(channel)
            host = str(hello["host"])
            if one_a_machine and host in (*others.values(), socket.gethostname()):
                _say(channel, refused=f"{host} trains already: one `dsrg join` a machine")
                channel.close()
                return None
            refused = None
            if hello["code"] != self._code:
                refused = f"{host} has other code or other packages than {socket.gethostname()}"
                _say(channel, refused=refused)
            else:
                _say(channel, **terms)
                refused = _hear(channel).get("refused")
            if refused:
                channel.close()
                raise MeetingError(f"{refused}: all machines must share the project and its environment")
            channel.send_bytes(task)
            _set_patience(channel, 0.0)
        except _FAILED:
            channel.close()
            return None
        return channel, host


def answer_call(call: Call, *, code: str) -> Seat | None:
    """Come to a training that waits; None if it does so no longer.

    Parameters
    ----------
    call : Call
    code : str
        Digest of this machine's code and packages.

    Raises
    ------
    MeetingError
        This machine was refused, or finds other files.
    """
    key = bytes.fromhex(call.key)
    for address in call.addresses:
        with contextlib.suppress(*_FAILED):
            channel = _open_channel(socket.create_connection((address, call.port), _REACH_SECONDS))
            with _closed_on_error(channel):
                connection.answer_challenge(channel, key)
                connection.deliver_challenge(channel, key)
                _set_patience(channel, _READ_SECONDS)
                return _take_seat(channel, code, address)
    return None


def _take_seat(channel: Channel, code: str, address: str) -> Seat:
    host = socket.gethostname()
    _say(channel, host=host, code=code)
    terms = _hear(channel)
    if "refused" in terms:
        raise MeetingError(terms["refused"])
    for place, digest in terms["files"].items():
        if hash_file(Path(place)) != digest:
            refused = f"`{place}` on {host} is another than on {terms['caller']}"
            _say(channel, refused=refused)
            raise MeetingError(refused)
    _say(channel)
    task = channel.recv_bytes()
    _set_patience(channel, 0.0)
    return Seat(
        terms["what"],
        terms["node"],
        terms["nodes"],
        terms["devices"],
        (address, terms["store"]),
        _read_own_address(channel),
        terms["caller"],
        channel,
        task,
    )


def hash_file(path: Path) -> str:
    """Hash a file's bytes; an empty string if there is none."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def _list_addresses() -> tuple[str, ...]:
    """List addresses of this machine by which others may reach it, the likeliest first."""
    found = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which way it would go
        found.append(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        found += socket.gethostbyname_ex(socket.gethostname())[2]
    for addresses in psutil.net_if_addrs().values():
        found += [entry.address for entry in addresses if entry.family == socket.AF_INET]
    found.append(socket.gethostname())
    found.sort(key=lambda address: address.startswith("127."))  # here, every machine reaches itself
    return tuple(dict.fromkeys([*found, "127.0.0.1"]))


def _open_channel(joined: socket.socket) -> Channel:
    joined.setblocking(True)
    joined.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            joined.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    channel = Channel(joined.detach())
    _set_patience(channel, _HANDSHAKE_SECONDS)
    return channel


def _set_patience(channel: Channel, seconds: float) -> None:
    """Let reads and writes fail after so many seconds; 0 is never."""
    with _borrow(channel) as joined:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            joined.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), 0))


def _read_own_address(channel: Channel) -> str:
    with _borrow(channel) as joined:
        return str(joined.getsockname()[0])


@contextlib.contextmanager
def _borrow(channel: Channel) -> Iterator[socket.socket]:
    joined = socket.socket(fileno=channel.fileno())
    try:
        yield joined
    finally:
        joined.detach()


@contextlib.contextmanager
def _closed_on_error(channel: Channel) -> Iterator[None]:
    try:
        yield
    except BaseException:
        channel.close()
        raise


def _say(channel: Channel, **words: Any) -> None:
    channel.send_bytes(json.dumps(words).encode())


def _hear(channel: Channel) -> dict[str, Any]:
    words = json.loads(channel.recv_bytes(_BLOCK))
    if not isinstance(words, dict):
        raise ValueError("no words of ours")
    return words
