"""Machines that meet to train together, as threads of one process."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_project import build_params

from dsrg.meeting import Call, Channel, Meeting, MeetingError, Seat, answer_call
from tasks.errors import UserError
from tasks.meeting import call_others, read_call, use_interface

HOST = socket.gethostname()


class Host:
    """Calls, in a thread."""

    def __init__(
        self, nodes: int, *, seconds: float = 20.0, files: tuple[Path, ...] = (), **how: Any
    ) -> None:
        self.waits = threading.Event()
        self.missing: list[int] = []
        self.met: list[str] = []
        self.meeting = Meeting(
            "train@1",
            nodes=nodes,
            code="ours",
            files=files,
            seconds=seconds,
            on_wait=self.begin,
            on_met=self.met.append,
        )
        self.call = self.meeting.call
        self._pool = ThreadPoolExecutor(1)
        settings = {"devices": 4, "store_port": 29500, "one_a_machine": False, **how}
        self.others: Future[dict[Channel, str]] = self._pool.submit(self.meeting.gather, b"task", **settings)
        assert self.waits.wait(10)

    def begin(self, missing: int) -> None:
        self.missing.append(missing)
        self.waits.set()

    def end(self) -> None:
        self.meeting.close()
        self._pool.shutdown()


@pytest.fixture
def start() -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def begin(*arguments: Any, **settings: Any) -> Host:
        hosts.append(Host(*arguments, **settings))
        return hosts[-1]

    yield begin
    for host in hosts:
        host.end()


def come(host: Host, code: str = "ours") -> Seat:
    seat = answer_call(host.call, code=code)
    assert seat is not None
    return seat


def test_machines_are_numbered_as_they_come_and_told_the_same(start: Callable[..., Host]) -> None:
    host = start(3)
    seats = [come(host), come(host)]
    others = host.others.result(10)
    assert [seat.node for seat in seats] == [1, 2]
    assert {(seat.nodes, seat.devices, seat.what, seat.caller, seat.task) for seat in seats} == {
        (3, 4, "train@1", HOST, b"task")
    }
    assert {seat.store[1] for seat in seats} == {29500}
    assert list(others.values()) == [HOST, HOST]
    assert host.missing == [2]
    assert host.met == [seats[0].host]
    for seat, channel in zip(seats, others, strict=True):
        seat.channel.send("how it ended")
        assert channel.recv() == "how it ended"
        channel.close()
        with pytest.raises(EOFError):
            seat.channel.recv()
        seat.channel.close()


def test_a_call_that_nobody_waits_at_any_more_is_no_call(start: Callable[..., Host]) -> None:
    host = start(2)
    seat = come(host)
    for channel in host.others.result(10):
        assert answer_call(host.call, code="ours") is None, "all are there"
        channel.close()
    seat.channel.close()


def test_strangers_do_not_disturb(start: Callable[..., Host]) -> None:
    host = start(2)
    assert answer_call(replace(host.call, key="00" * 32), code="ours") is None
    with socket.create_connection(("127.0.0.1", host.call.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    seat = come(host)
    assert list(host.others.result(10).values()) == [HOST]
    seat.channel.close()


def test_other_code_is_refused_at_both_ends(start: Callable[..., Host]) -> None:
    host = start(2)
    with pytest.raises(MeetingError, match=rf"^{HOST} has other code or other packages than {HOST}$"):
        come(host, code="theirs")
    with pytest.raises(
        MeetingError, match=rf"^{HOST} has other code .*: all machines must share the project"
    ):
        host.others.result(10)


@pytest.mark.parametrize(("before", "after"), [(b"3", b"4"), (None, b"4"), (b"3", None)])
def test_another_checkpoint_is_refused_at_both_ends(
    start: Callable[..., Host], tmp_path: Path, before: bytes | None, after: bytes | None
) -> None:
    checkpoint = tmp_path / "last.ckpt"
    for content in (before, after):
        checkpoint.unlink(missing_ok=True)
        if content is not None:
            checkpoint.write_bytes(content)
        if content == before:
            host = start(2, files=(checkpoint,))
    with pytest.raises(MeetingError, match=rf"^`{checkpoint}` on {HOST} is another than on {HOST}$"):
        come(host)
    with pytest.raises(MeetingError, match=r"is another than on .*: all machines must share the project"):
        host.others.result(10)


def test_too_few_machines_are_one_line(start: Callable[..., Host]) -> None:
    host = start(3, seconds=1.0)
    seat = come(host)
    with pytest.raises(
        MeetingError, match=r"^1 of 3 machines did not come in 1 s: on each of them, run `dsrg"
    ):
        host.others.result(10)
    with pytest.raises(EOFError):
        seat.channel.recv()
    seat.channel.close()


def test_a_machine_that_goes_before_all_have_come_is_one_line(start: Callable[..., Host]) -> None:
    host = start(3)
    come(host).channel.close()
    with pytest.raises(MeetingError, match=rf"^{HOST} went away before the training began"):
        host.others.result(10)


def test_two_of_one_machine_would_use_the_same_gpus(start: Callable[..., Host]) -> None:
    host = start(2, seconds=1.0, one_a_machine=True)
    with pytest.raises(MeetingError, match=rf"^{HOST} trains already: one `dsrg join` a machine$"):
        come(host)
    with pytest.raises(MeetingError, match=r"^1 of 2 machines did not come"):
        host.others.result(10)


def test_the_call_is_for_its_owner_and_lies_there_as_long_as_one_waits(tmp_path: Path) -> None:
    params = build_params(compute={"nodes": 2})
    assert read_call(tmp_path) is None
    with call_others(tmp_path, params, "train@1", [tmp_path / "images.zarr"]) as meeting:
        assert meeting is not None
        assert read_call(tmp_path) == meeting.call
        place = tmp_path / ".work" / "call.json"
        assert place.stat().st_mode & 0o777 == 0o600
        place.write_text('{"name": "half"')
        with pytest.raises(UserError, match=r"is no call of this version: run the same code everywhere$"):
            read_call(tmp_path)
    assert read_call(tmp_path) is None
    with call_others(tmp_path, build_params(), "train@1", []) as meeting:
        assert meeting is None
        assert read_call(tmp_path) is None


def test_a_call_names_addresses_of_this_machine(start: Callable[..., Host]) -> None:
    call: Call = start(2, seconds=0.1).call
    own = [address.startswith("127.") for address in call.addresses]
    assert "127.0.0.1" in call.addresses
    assert own == sorted(own), "those by which others may reach it come first"
    assert len(set(call.addresses)) == len(call.addresses)
    assert asdict(call)["what"] == "train@1"


def test_gloo_talks_over_the_interface_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    with use_interface("127.0.0.1"):
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    with use_interface("127.0.0.1"):
        assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0", "people know better"
