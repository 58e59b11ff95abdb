"""Limits of the served model: sizes, turns, order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tasks.tracking_server import MEGABYTE, Limits, build_server

Scope = dict[str, Any]


async def post(app: Limits, parts: Iterable[bytes], *, length: str | None = None) -> tuple[int, bytes]:
    """Post a body that comes in parts; return status and answer."""
    waiting = list(parts)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", length.encode())]
    await app({"type": "http", "method": "POST", "headers": headers}, receive, send)
    return sent[0]["status"], sent[1]["body"]


def answer_by(work: Callable[[bytes], Awaitable[None]]) -> Any:
    """Build an app that works on a body, then sends it back."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        message = await receive()
        await work(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})

    return app


async def no_work(body: bytes) -> None:
    pass


@pytest.mark.parametrize(
    ("parts", "length", "status"),
    [
        ([b"abcd"], "4", 200),
        ([b"ab", b"cd"], None, 200),
        ([b""], None, 200),
        ([b"abcde"], "5", 413),
        ([b"ab"], "5", 413),  # refused by what it announces, before it comes
        ([b"abc", b"de", b"read and dropped"], None, 413),
        ([b"abcde"], "1", 413),  # announced too little
        ([b"a"], "-1", 413),
        ([b"a"], "many", 413),
    ],
)
def test_a_body_is_handed_on_whole_or_refused(parts: list[bytes], length: str | None, status: int) -> None:
    app = Limits(answer_by(no_work), max_bytes=4, at_once=1)
    found, body = asyncio.run(post(app, parts, length=length))
    assert found == status
    assert body == b"".join(parts) if status == 200 else b"send fewer or smaller pictures" in body


def test_the_refusal_tells_the_limit() -> None:
    app = Limits(answer_by(no_work), max_bytes=3 * MEGABYTE // 2, at_once=1)
    _, body = asyncio.run(post(app, [b"a"], length="1600000"))
    assert json.loads(body)["error"].startswith("a body holds at most 1.5 MiB: ")


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_are_worked_on_at_a_time_in_their_order(at_once: int) -> None:
    began: list[int] = []
    working = most = 0

    async def work(body: bytes) -> None:
        nonlocal working, most
        began.append(int(body))
        working += 1
        most = max(most, working)
        await asyncio.sleep(0.001)
        working -= 1

    async def post_all() -> list[tuple[int, bytes]]:
        app = Limits(answer_by(work), max_bytes=10, at_once=at_once)
        return await asyncio.gather(*(post(app, [str(number).encode()]) for number in range(50)))

    answers = asyncio.run(post_all())
    assert [(status, int(body)) for status, body in answers] == [(200, number) for number in range(50)]
    assert began == list(range(50))
    assert most == at_once


def test_a_request_that_fails_gives_its_turn_back() -> None:
    async def fail(body: bytes) -> None:
        if body == b"bad":
            raise RuntimeError

    async def post_both() -> int:
        app = Limits(answer_by(fail), max_bytes=10, at_once=1)
        with pytest.raises(RuntimeError):
            await post(app, [b"bad"])
        return (await asyncio.wait_for(post(app, [b"good"]), 1))[0]

    assert asyncio.run(post_both()) == 200


@contextlib.contextmanager
def serving(app: Limits, **settings: int) -> Iterator[str]:
    """Let the real server listen; yield its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = build_server(app, **settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield "http://{}:{}".format(*listener.getsockname())
        finally:
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive()


def ask(address: str, body: Any) -> tuple[int, bytes]:
    # urllib sends all before it listens
    try:
        with urlopen(Request(address, body), timeout=60) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("announced", [True, False], ids=["with its length", "in chunks"])
def test_a_caller_that_sends_far_too_much_is_told_so(announced: bool) -> None:
    body = bytes(30 * MEGABYTE)
    with serving(Limits(answer_by(no_work), max_bytes=MEGABYTE, at_once=1)) as address:
        for _ in range(3):
            status, said = ask(
                address, body if announced else (body[i : i + 65536] for i in range(0, len(body), 65536))
            )
            assert (status, json.loads(said)["error"].partition(":")[0]) == (
                413,
                "a body holds at most 1 MiB",
            )
        assert ask(address, b"a little") == (200, b"a little")


def test_more_callers_than_there_is_room_for_are_told_to_come_again() -> None:
    held = threading.Event()

    async def wait(body: bytes) -> None:
        while not held.is_set():
            await asyncio.sleep(0.01)

    with serving(Limits(answer_by(wait), max_bytes=10, at_once=1), backlog=3) as address:
        answers: list[int] = []
        callers = [threading.Thread(target=lambda: answers.append(ask(address, b"a")[0])) for _ in range(8)]
        for caller in callers:
            caller.start()
        while len(answers) < 5:
            held.wait(0.01)
        held.set()
        for caller in callers:
            caller.join(30)
        assert ask(address, b"a") == (200, b"a")
    assert set(answers) <= {200, 503}
    assert answers.count(503) >= 5
