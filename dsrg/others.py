"""The processes that train beside this one: started, listened to, and ended with it.

Those of this machine are started here, work on copies of the same model, samples and loss, and say through
a pipe how they ended. On every further machine a process that came to the :class:`~dsrg.meeting.Meeting`
starts its own in the same way, and passes on what they say.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing import connection
from typing import Any

import torch
from torch import distributed

from dsrg.meeting import Channel, Meeting, MeetingError, Seat
from dsrg.ranks import Rank, number_ranks, open_store

_END_SECONDS = 30.0
_TELL_SECONDS = 5.0
_POLL_SECONDS = 0.5
STUCK_SECONDS = 15.0  # in which torch itself notices that another ended, if it does
_HUNG_UP = re.compile(
    "Connection (closed|reset|refused)|closed by peer|Timed out waiting|Application timeout|Broken pipe|"
    "No route to host"
)
_ENDED = "a process that trains beside this one ended"


class OtherEndedError(RuntimeError):
    """A process that trains beside this one ended, and did not say why."""


class _NoticedError(OtherEndedError):
    """A process says that it noticed another's end, of which others may know more."""


@contextlib.contextmanager
def start_others(
    devices: int,
    function: Callable[..., None],
    *arguments: Any,
    meeting: Meeting | None = None,
    one_a_machine: bool = False,
    on_stuck: Callable[[Exception], None] | None = None,
) -> Iterator[Rank]:
    """Have ``function(rank, *arguments)`` called in all other processes; give this one's rank, which is 0.

    Parameters
    ----------
    devices : int
        Processes on each machine.
    function : callable
        At the top level of a module.
    arguments : object
        Copied whole: nothing is shared.
    meeting : Meeting, optional
        Where further machines come to; without it, there is this one only.
    one_a_machine : bool
        Of those that come.
    on_stuck : callable, optional
        Called, in another thread, with the reason if another ended and this process waits for it all the
        same: beside GPUs, or for a machine that lost its power.

    Raises
    ------
    MeetingError
        The other machines did not come.
    OtherEndedError
        One of the processes was killed. An error in one of them is raised here.
    """
    nodes = 1 if meeting is None else meeting.nodes
    if nodes * devices == 1:
        yield Rank()
        return
    # by itself, torch would have the processes share the memory of tensors, and so of the weights
    copied = pickle.dumps((function, arguments))
    store = open_store(first=True)
    rank, *beside = number_ranks(0, nodes=nodes, devices=devices, store=("127.0.0.1", store.port))
    remote = {}
    if meeting is not None:
        remote = meeting.gather(copied, devices=devices, store_port=store.port, one_a_machine=one_a_machine)
    with (
        _close_all(remote),
        _start_processes(beside, copied) as local,
        _share_threads(devices),
        _listen_to({**local, **remote}, on_stuck),
    ):
        yield rank


def work_for(seat: Seat) -> None:
    """Start this machine's processes for a training that another one called for; return when it is over.

    Raises
    ------
    MeetingError
        The caller ended.
    OtherEndedError
        One of the processes was killed. An error in one of them is raised here.
    """
    ranks = number_ranks(seat.node, nodes=seat.nodes, devices=seat.devices, store=seat.store)
    with _close_all([seat.channel]), _start_processes(ranks, seat.task) as local:
        here = dict.fromkeys(local, socket.gethostname())
        reason = _hear_out(here, caller=seat.channel)
        with contextlib.suppress(OSError):
            seat.channel.send(reason)
        if reason is not None:
            raise reason


@contextlib.contextmanager
def _close_all(channels: Iterable[Channel]) -> Iterator[None]:
    try:
        yield
    finally:
        for channel in channels:
            channel.close()


@contextlib.contextmanager
def _start_processes(ranks: Iterable[Rank], copied: bytes) -> Iterator[dict[Channel, str]]:
    """Start processes of this machine; give the channels through which they say how they ended."""
    context = multiprocessing.get_context("spawn")
    processes, channels = [], {}
    try:
        for rank in ranks:
            receiver, sender = context.Pipe(duplex=False)
            processes.append(context.Process(target=_work, args=(rank, copied, sender)))
            channels[receiver] = ""
            processes[-1].start()
            sender.close()  # so that its end is heard of
        yield channels
        for process in processes:
            process.join(_END_SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.join()


@contextlib.contextmanager
def _share_threads(parts: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // parts))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _listen_to(
    channels: Mapping[Channel, str], on_stuck: Callable[[Exception], None] | None
) -> Iterator[None]:
    """Listen to the others as long as this lasts; what one of them ended by is raised here."""
    reasons: list[Exception] = []
    over = threading.Event()

    def listen() -> None:
        reason = _hear_out(channels, over=over)
        if reason is not None:
            reasons.append(reason)
            if not over.wait(STUCK_SECONDS) and on_stuck is not None:
                on_stuck(reason)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
        listener.join(_END_SECONDS)
    except RuntimeError as error:
        if not _notices_end(error):
            raise
        deadline = time.monotonic() + 2 * _TELL_SECONDS
        while not reasons and listener.is_alive() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS / 5)
        raise (reasons or [_describe_end(error)])[0] from error
    finally:
        over.set()
        listener.join()


def _notices_end(error: Exception) -> bool:
    return isinstance(error, distributed.DistError) or bool(_HUNG_UP.search(str(error)))


def _describe_end(error: Exception) -> OtherEndedError:
    words = _HUNG_UP.search(str(error))
    return _NoticedError(f"{_ENDED} ({words[0] if words else str(error).partition(chr(10))[0]})")


def _hear_out(
    others: Mapping[Channel, str],
    *,
    caller: Channel | None = None,
    over: threading.Event | None = None,
) -> Exception | None:
    """Wait until all others have ended; return why one did so too early, or None.

    Parameters
    ----------
    others : mapping of Connection to str
        To the names of their machines; none for this one.
    caller : Connection, optional
        To whoever called for this machine; it says nothing, and its end is one too early.
    over : threading.Event, optional
        Set when nobody cares any more.
    """
    waiting = dict(others)
    ends: list[OtherEndedError] = []
    deadline = float("inf")
    # a process that only noticed an end may have done so before this one hears of the caller's
    while (
        waiting or (caller and ends and isinstance(ends[-1], _NoticedError))
    ) and time.monotonic() < deadline:
        if over is not None and over.is_set():
            break
        for channel in connection.wait([*waiting, *([caller] if caller else [])], _POLL_SECONDS):
            if channel is caller:
                return MeetingError("the machine that called for this training has ended it")
            assert isinstance(channel, Channel)
            said = _read(channel, waiting.pop(channel))
            if isinstance(said, OtherEndedError):
                ends.append(said)
                deadline = min(deadline, time.monotonic() + _TELL_SECONDS)  # an error may yet be told of
            elif said is not None:
                return said
    return min(ends, key=lambda end: isinstance(end, _NoticedError), default=None)


def _read(channel: Channel, machine: str) -> Exception | None:
    """Read how a process ended; one that says nothing was killed."""
    try:
        said = channel.recv()
    except Exception:  # noqa: BLE001 - it is gone, or said something that cannot be understood here
        return OtherEndedError(f"{_ENDED} (on {machine})" if machine else _ENDED)
    assert said is None or isinstance(said, Exception)
    return said


def end_with_starter(_: int = 0) -> None:
    """End this process, which multiprocessing started, as soon as the one that wanted it is gone."""
    starter = multiprocessing.parent_process()
    assert starter is not None
    sentinel = starter.sentinel

    def wait() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _work(rank: Rank, copied: bytes, said: Channel) -> None:
    end_with_starter()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starter hears it too
    torch.set_num_threads(max(1, torch.get_num_threads() // rank.beside))
    function, arguments = pickle.loads(copied)  # noqa: S301 - of the process that started this one
    try:
        function(rank, *arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, the first process tells of it
        noticed = isinstance(error, RuntimeError) and _notices_end(error)
        said.send(_describe_end(error) if noticed else error)
    else:
        said.send(None)
