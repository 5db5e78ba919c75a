"""Whether a program answers rightly: one request of each kind, sent with the standard library."""

import http.client
import json
from typing import Any

from benchmarks.gateway.bodies import CHAT_ANSWER, CLAUDE_ANSWER, TEXT, stream_events, stream_text
from benchmarks.gateway.requests import Kind
from benchmarks.gateway.subjects import Subject

STREAM_EVENTS = 20


class WrongAnswer(Exception):
    """A program under test did not answer as it should."""


def check(subject: Subject, kind: Kind) -> dict[str, Any]:
    """Ask once, and return what came; raise WrongAnswer if it is not what the upstream said.

    A program that hands on bytes must hand on these bytes; one that makes answers of its own must say the same text.
    For a stream the upstream's plan is one of `STREAM_EVENTS` events.
    """
    path, fields, body = subject.ask(kind)
    connection = http.client.HTTPConnection("127.0.0.1", subject.port, timeout=30)
    try:
        connection.request("POST", path, body, fields)
        response = connection.getresponse()
        found = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise WrongAnswer(f"{subject.name}, {kind}: expected 200, found {response.status}: {found[:500]!r}")
    if subject.is_exact and found != _expected(kind):
        raise WrongAnswer(f"{subject.name}, {kind}: expected {_expected(kind)[:500]!r}, found {found[:500]!r}")
    if (text := said(kind, found)) != (wanted := stream_text(STREAM_EVENTS) if kind is Kind.STREAM else TEXT):
        raise WrongAnswer(f"{subject.name}, {kind}: expected the text {wanted!r}, found {text!r}")
    events = found.count(b"\n\n") if kind is Kind.STREAM else 0
    return {"subject": subject.name, "kind": kind, "status": response.status, "bytes": len(found), "events": events}


def _expected(kind: Kind) -> bytes:
    if kind is Kind.STREAM:
        return b"".join(stream_events(STREAM_EVENTS))
    return CLAUDE_ANSWER if kind.is_claude else CHAT_ANSWER


def said(kind: Kind, body: bytes) -> str:
    """Return the text of an answer."""
    if kind is Kind.STREAM:
        datas = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: {")]
        choices = [choice for data in datas for choice in json.loads(data)["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)
    answer = json.loads(body)
    return str(answer["content"][0]["text"] if kind.is_claude else answer["choices"][0]["message"]["content"])
