"""A model's answer to one request."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Protocol

import msgspec

from bridgeserver.fakeprovider import chat, messages, responses
from bridgeserver.fakeprovider.answer import Answer, failed
from bridgeserver.fakeprovider.asked import Asked, first_missing, read_asked
from bridgeserver.fakeprovider.catalogue import DEFAULT
from bridgeserver.fakeprovider.faults import Family, not_json, overloaded, without_member
from bridgeserver.fakeprovider.routes import Name
from bridgeserver.fakeprovider.script import Fault, Script
from bridgeserver.fakeprovider.turns import with_due_tools, with_quote

CACHED_ANSWERS = 64
"""Benchmarks repeat themselves: what was answered lately is not made again."""


class _Wire(Protocol):
    """What a protocol's module offers."""

    NEEDED: tuple[str, ...]

    def body(self, asked: Asked, script: Script, /) -> bytes: ...
    def events(self, asked: Asked, script: Script, /) -> Iterator[bytes]: ...
    def error_event(self, fault: Fault, number: int, /) -> bytes: ...


_WIRES: dict[Name, _Wire] = {"messages": messages, "chat": chat, "responses": responses}

GENERATING = frozenset(_WIRES)
"""The routes where a model answers."""


class Generator:
    """Answers by script; pure, so that equal requests share one answer."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self._scripts = scripts
        self.generate = lru_cache(CACHED_ANSWERS)(self._generate)

    def _generate(
        self, name: Name, family: Family, body: bytes, salt: int, created_at: int, script: Script | None
    ) -> tuple[Script, Answer]:
        """Return the answer, and the script that it was made by: *script*, or the one of the model's name."""
        asked = read_asked(body, salt, created_at)
        if asked is None:
            return script or DEFAULT, failed(family, not_json())
        script = script or self._scripts.get(asked.model, DEFAULT)
        missing = first_missing(asked, _WIRES[name].NEEDED)
        fault = without_member(family, missing) if missing else _blocking_fault(script, asked, family)
        if fault:
            return script, msgspec.structs.replace(failed(family, fault), seed=asked.seed)
        return script, _answer(name, family, asked, with_quote(with_due_tools(script, asked), asked))


def _blocking_fault(script: Script, asked: Asked, family: Family) -> Fault | None:
    """Return the error that stands in place of an answer."""
    if script.stream_error_after is None:
        return script.fail
    return None if asked.is_stream else script.fail or overloaded(family)


def _answer(name: Name, family: Family, asked: Asked, script: Script) -> Answer:
    wire = _WIRES[name]
    pieces = _stream(wire, asked, script, family) if asked.is_stream else (wire.body(asked, script),)
    answer = Answer(200, pieces, is_stream=asked.is_stream, seed=asked.seed)
    if name != "responses" or asked.value("store") is False:
        return answer
    kept = responses.response(asked, script)
    return msgspec.structs.replace(answer, kept_id=kept["id"], kept=msgspec.json.encode(kept))


def _stream(wire: _Wire, asked: Asked, script: Script, family: Family) -> tuple[bytes, ...]:
    events = tuple(wire.events(asked, script))
    if script.stream_error_after is None:
        return events
    events = events[: script.stream_error_after]
    return (*events, wire.error_event(script.fail or overloaded(family), len(events)))
