"""Answers in parts: each is asked for when the client has taken the one before, and a broken one never looks whole."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import clientlab
from bridgecore import Reply, Request
from bridgeserver import health
from bridgeserver.asks import Answer, Ask, refusal
from bridgeserver.errors import Overloaded
from bridgeserver.relay import Timeouts
from clientlab import Client
from test_endpoints import USER, FakeWorker

PATH = "/-/api/v1/interceptions/export"
CSV = "text/csv"


class Source(FakeWorker):
    """A worker whose parent gives one part after another."""

    def __init__(self, *parts: Answer | Exception) -> None:
        super().__init__()
        self.parts = list(parts)
        self.on_ask: Callable[[], object] = list

    async def ask(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        self.on_ask()
        part = self.parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part


def part(body: bytes, cursor: str | None = None) -> Answer:
    """Return a part of an export."""
    return Answer(200, body, CSV, {"content-disposition": "attachment"}, cursor)


def fetch(worker: Source, *, method: str = "GET", before: Callable[[Client], object] | None = None) -> Client:
    """Ask for the export, and return the client when everything has settled."""

    async def run() -> Client:
        ended = asyncio.Event()

        async def handler(request: Request, reply: Reply) -> None:
            try:
                await health.answer(worker, request, reply)
            finally:
                reply.close()
                ended.set()

        server = clientlab.serve(handler)
        client = Client(server)
        if before is not None:
            worker.on_ask = partial(before, client)
        client.send(f"{method} {PATH}?format=csv HTTP/1.1\r\nauthorization: Bearer {USER}\r\n\r\n".encode())
        await ended.wait()
        await clientlab.settle()
        server.abort()
        return client

    return asyncio.run(run())


def test_parts_become_one_answer() -> None:
    """Their bodies follow one another, each asked for with the cursor of the one before, by the same caller."""
    worker = Source(part(b"a\r\n", "1"), part(b"", "2"), part(b"c\r\n"))
    answer = clientlab.parse(fetch(worker).wire.sent)
    assert (answer.status, answer.body) == (200, b"3\r\na\r\n\r\n3\r\nc\r\n\r\n0\r\n\r\n")
    assert (answer.headers["content-type"], answer.headers["content-disposition"]) == (CSV, "attachment")
    assert [(ask.path, ask.query, ask.cursor, ask.user_id, ask.is_admin) for ask in worker.asked] == [
        (PATH, "format=csv", cursor, "u2", False) for cursor in (None, "1", "2")
    ]


def test_a_short_export_has_a_length() -> None:
    """What is one part is sent like every other answer."""
    answer = clientlab.parse(fetch(Source(part(b"a\r\n"))).wire.sent)
    assert (answer.headers["content-length"], answer.body) == ("3", b"a\r\n")


def test_head_asks_for_one_part() -> None:
    """It tells how the answer would begin."""
    worker = Source(part(b"a", "1"))
    sent = fetch(worker, method="HEAD").wire.sent
    assert sent.startswith(b"HTTP/1.1 200 ")
    assert sent.endswith(b"\r\n\r\n")
    assert len(worker.asked) == 1


@pytest.mark.parametrize("failure", [refusal(503, "the database failed"), Overloaded("too slow"), KeyError("defect")])
def test_a_failure_in_the_middle_breaks_the_answer_off(failure: Any) -> None:
    """There is no last chunk, so that nobody takes the half for the whole."""
    client = fetch(Source(part(b"first", "1"), failure))
    assert b"first" in client.wire.sent
    assert not client.wire.sent.endswith(b"0\r\n\r\n")
    assert client.wire.end


def test_a_failure_at_the_beginning_is_an_answer() -> None:
    """Nothing was sent yet, so the client is told."""
    assert clientlab.parse(fetch(Source(refusal(503, "the database failed"))).wire.sent).status == 503


def test_nothing_more_is_asked_for_a_client_that_left() -> None:
    """The part that is on its way is the last one."""
    worker = Source(part(b"a", "1"), part(b"b", "2"), part(b"c"))

    def leave(client: Client) -> None:
        if len(worker.asked) == 2:
            client.leave()

    fetch(worker, before=leave)
    assert len(worker.asked) == 2


def test_a_client_that_reads_nothing_ends_it() -> None:
    """A part waits until the one before was taken, for as long as a client may read nothing."""
    worker = Source(part(b"a", "1"), part(b"b"))
    worker.timeouts = Timeouts(upstream_s=1.0, client_s=0.01)
    client = fetch(worker, before=lambda client: client.connection.pause_writing())
    assert len(worker.asked) == 1
    assert not client.wire.sent.endswith(b"0\r\n\r\n")
