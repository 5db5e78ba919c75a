"""Parameters of a query: what each may be, as a check and as a schema. All mistakes of a request are found at once."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from bridgeserver.config.sources import unknown
from bridgeserver.errors import InvalidMembers
from bridgeserver.store.schema import EPOCH, MICROSECOND
from bridgeserver.tokens import redact

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
"""What a mistake may show of an unknown name: a key that strayed there is none of these."""

INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")

TERM = re.compile(r'([a-z_]+):(?:"([^"]*)"|([^\s"]+))(?=\s|$)')
"""One word of `q`."""


class Kind(NamedTuple):
    """What a value may be: `read` raises ValueError for what it is not."""

    expected: str
    read: Callable[[str], Any]
    schema: Mapping[str, Any]


class Parameter(NamedTuple):
    """One parameter; what is not given has its default."""

    name: str
    kind: Kind
    text: str
    default: Any = None


def texts(*, may_be_empty: bool = False) -> Kind:
    """Return the kind of any text."""

    def read(text: str) -> str:
        if "\0" in text or not (text or may_be_empty):
            raise ValueError
        return text

    # PostgreSQL has no NUL in its texts, so nothing that is stored has one.
    return Kind("a text", read, {"type": "string", "pattern": r"^[^\u0000]*$" if may_be_empty else r"^[^\u0000]+$"})


def whole(least: int, most: int) -> Kind:
    """Return the kind of whole numbers within bounds."""

    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    expected = f"a whole number from {least} to {most}"
    return Kind(expected, read, {"type": "integer", "minimum": least, "maximum": most})


def choice(*names: str) -> Kind:
    """Return the kind of one of some names."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return Kind(f"one of {', '.join(names)}", read, {"type": "string", "enum": list(names)})


def choices(*names: str) -> Kind:
    """Return the kind of some of some names, with commas between them."""

    def read(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        if len(set(found)) < len(found) or not set(found) <= set(names):
            raise ValueError
        return found

    one = "|".join(names)
    expected = f"some of {', '.join(names)}, each once, with commas between them"
    return Kind(expected, read, {"type": "string", "pattern": f"^({one})(,({one}))*$"})


def _read_instant(text: str) -> int:
    if not INSTANT.fullmatch(text):
        raise ValueError
    at = (datetime.fromisoformat(text.upper()) - EPOCH) // MICROSECOND
    if not 0 <= at < END_US:
        raise ValueError
    return at


END_US = 253_402_300_800_000_000
"""The first moment of the year 10000, which no database has."""

TEXT = texts()
PREFIX = texts(may_be_empty=True)
INSTANTS = Kind(
    "a time from 1970 on like 2026-01-31T12:00:00Z (RFC 3339; write the + of an offset as %2B)",
    _read_instant,
    {"type": "string", "format": "date-time"},
)
"""Microseconds since the epoch."""


def read(query: str, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return all parameters by name, from the raw bytes of a query as Latin-1; raises InvalidMembers."""
    known = {parameter.name: parameter for parameter in parameters}
    given: dict[str, Any] = {}
    mistakes: list[str] = []
    for name, text in _pairs(query):
        if name is None or name not in known:
            shown = name if name and NAME.fullmatch(name) else "a parameter"
            mistakes.append(unknown("query", shown, (name or "")[:40], known))
        elif name in given:
            mistakes.append(f"{name}: found it more than once, expected one value")
        else:
            try:
                given[name] = _value(known[name].kind, text)
            except ValueError:
                given[name] = None
                mistakes.append(_wrong(name, text, known[name].kind))
    if mistakes:
        raise InvalidMembers(mistakes)
    return {name: parameter.default for name, parameter in known.items()} | given


def read_terms(text: str, known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the parameters that the words of *text* mean, `key:value` or `key:"with spaces"`.

    Raises InvalidMembers with all mistakes.
    """
    found: dict[str, Any] = {}
    mistakes: list[str] = []
    at = 0
    while rest := text[at:].strip():
        at = len(text) - len(text[at:].lstrip())
        term = TERM.match(text, at)
        if term is None:
            shown = redact(rest.split()[0])[:64]
            mistakes.append(f'q: found {shown!r}, expected key:value or key:"several words", with spaces between them')
            break
        at = term.end()
        key, value = term[1], term[2] if term[2] is not None else term[3]
        if key not in known:
            mistakes.append(unknown("q", key[:40], key[:40], known))
        elif known[key].name in found:
            mistakes.append(f"q: {key}: found it more than once, expected one value")
        else:
            try:
                found[known[key].name] = _value(known[key].kind, value)
            except ValueError:
                found[known[key].name] = None
                mistakes.append("q: " + _wrong(key, value, known[key].kind))
    if mistakes:
        raise InvalidMembers(mistakes)
    return found


def _pairs(query: str) -> Iterator[tuple[str | None, str | None]]:
    for pair in query.split("&"):
        if pair:
            name, _, value = pair.partition("=")
            yield _decoded(name), _decoded(value)


def _decoded(raw: str) -> str | None:
    """Return the text, or None where its bytes are no UTF-8."""
    try:
        return unquote_to_bytes(raw.replace("+", " ").encode("latin-1")).decode()
    except UnicodeError:
        return None


def _value(kind: Kind, text: str | None) -> Any:
    if text is None:
        raise ValueError
    return kind.read(text)


def _wrong(name: str, text: str | None, kind: Kind) -> str:
    found = "bytes that are no UTF-8" if text is None else repr(redact(text)[:64])
    return f"{name}: found {found}, expected {kind.expected}"
