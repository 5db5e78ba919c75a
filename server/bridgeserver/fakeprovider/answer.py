"""One answer, before it is sent."""

import zlib
from itertools import pairwise
from typing import Any

import msgspec

from bridgeserver.fakeprovider.faults import Family, messages_error, openai_error
from bridgeserver.fakeprovider.script import Fault

JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"

_GZIP = zlib.MAX_WBITS | 16


class Answer(msgspec.Struct, frozen=True):
    """Status, headers and body; what can be computed once for equal requests."""

    status: int
    pieces: tuple[bytes, ...]
    """The body: of a stream its events, else the one text."""
    is_stream: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    seed: str = ""
    """What its ids were made from, if it has any."""
    kept_id: str = ""
    kept: bytes = b""
    """The object that the provider keeps under `kept_id`."""


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, (msgspec.json.encode(value),))


def event(name: str, data: Any) -> bytes:
    """Return one server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


def split(text: str, count: int) -> list[str]:
    """Cut *text* into *count* pieces of about the same length, none of them empty."""
    count = max(1, min(count, len(text))) if text else 0
    bounds = [len(text) * number // count for number in range(count + 1)] if count else []
    return [text[start:end] for start, end in pairwise(bounds)]


def halved(answer: Answer) -> Answer:
    """Return *answer* with its body in two pieces, unless it is a stream."""
    if answer.is_stream:
        return answer
    body = b"".join(answer.pieces)
    middle = len(body) // 2
    return msgspec.structs.replace(answer, pieces=(body[:middle], body[middle:]))


def gzipped(answer: Answer) -> Answer:
    """Return *answer* compressed; each piece can be read when it has arrived."""
    packer = zlib.compressobj(wbits=_GZIP)
    pieces = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in answer.pieces]
    pieces[-1] += packer.flush()
    headers = (*answer.headers, ("content-encoding", "gzip"))
    return msgspec.structs.replace(answer, pieces=tuple(pieces), headers=headers)


def failed(family: Family, fault: Fault) -> Answer:
    """Return an error as the provider answers it."""
    error = messages_error(fault) if family == "anthropic" else openai_error(fault)
    headers = (("retry-after", fault.retry_after),) if fault.retry_after else ()
    return msgspec.structs.replace(json_answer(error, fault.status), headers=headers)
