"""Edits of JSON text at known places, which leave every other byte as it is."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeGuard, cast

import msgspec

from bridgecore import find_each, find_member
from bridgeserver.protocols import lenient

Span = tuple[int, int]

_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_EMPTY_ARRAY = re.compile(rb"\[[ \t\r\n]*\]")


class Edit(NamedTuple):
    """Replace `text[start:end]` by `data`."""

    start: int
    end: int
    data: bytes


def splice(text: bytes, edits: Iterable[Edit]) -> bytes:
    """Return *text* with edits that do not overlap."""
    pieces: list[bytes] = []
    at = 0
    for start, end, data in sorted(edits, key=lambda edit: edit.start):
        pieces += (text[at:start], data)
        at = end
    pieces.append(text[at:])
    return b"".join(pieces)


def shifted(offset: int, edits: Iterable[Edit]) -> int:
    """Return where the byte at *offset* is after the edits, none of which replaces it."""
    return offset + sum(len(edit.data) - (edit.end - edit.start) for edit in edits if edit.start <= offset)


def prepended(text: bytes, span: Span, elements: bytes) -> Edit:
    """Return the edit that puts *elements* first into the array at *span*."""
    at = span[0] + 1
    return Edit(at, at, elements if is_empty_array(text, span) else elements + b",")


def appended(text: bytes, span: Span, elements: bytes) -> Edit:
    """Return the edit that puts *elements* last into the array at *span*."""
    at = span[1] - 1
    return Edit(at, at, elements if is_empty_array(text, span) else b"," + elements)


def added(text: bytes, members: Iterable[bytes]) -> Edit:
    """Return the edit that puts *members* first into the object that *text* is, which is not empty."""
    at = text.index(b"{") + 1
    return Edit(at, at, b",".join([*members, b""]))


def is_empty_array(text: bytes, span: Span) -> bool:
    """Whether the array at *span* has no elements."""
    return _EMPTY_ARRAY.match(text, span[0], span[1]) is not None


def is_array(text: bytes, span: Span | None) -> bool:
    """Whether there is an array at *span*."""
    return span is not None and text[span[0] : span[0] + 1] == b"["


def replaced(text: bytes, name: str, value: bytes) -> bytes:
    """Return the JSON object *text* with another value of its member *name*, if it has one."""
    span = find_member(text, name)
    return text if span is None else text[: span[0]] + value + text[span[1] :]


def renumbered(text: bytes, numbers: Mapping[str, int]) -> bytes:
    """Return the JSON object *text* with other values of those of its members that are there."""
    names = tuple(numbers)
    spans = find_each(text, names)
    return splice(text, [Edit(*span, b"%d" % numbers[name]) for name, span in zip(names, spans, strict=True) if span])


def encode(value: Any) -> bytes:
    """Return JSON text; what the fast encoder cannot spell (lone surrogates, huge integers) the general one does."""
    try:
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError):
        return json.dumps(_plain(value)).encode()


def elements_of(array: bytes) -> list[bytes]:
    """Return the elements of an array as they are spelled, or as they can be spelled where only a parser reads it."""
    try:
        return list(map(bytes, _ELEMENTS.decode(array)))
    except (ValueError, RecursionError):
        return [encode(element) for element in lenient.array(lenient.read(array))]


def spans_of(text: bytes, array: Span) -> list[Span]:
    """Return where the elements of the array at *array* stand; nothing where only a general parser could tell."""
    spans: list[Span] = []
    at = array[0] + 1
    for element in elements_of(text[slice(*array)]):
        start = text.find(element, at, array[1])  # between two elements there is nothing that one begins with
        if start < 0:
            return []
        at = start + len(element)
        spans.append((start, at))
    return spans


def inserted(span: Span, before: Iterable[bytes], after: Iterable[bytes]) -> list[Edit]:
    """Return the edits that put elements around the one at *span*."""
    first = b"".join(element + b"," for element in before)
    last = b"".join(b"," + element for element in after)
    return [Edit(at, at, data) for at, data in ((span[0], first), (span[1], last)) if data]


def added_up(before: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return usage with the counts of both; of what is no count, the later stays."""
    total = {**before, **own}
    for name, value in own.items():
        known = before.get(name)
        if isinstance(value, dict) and isinstance(known, dict):
            total[name] = added_up(lenient.mapping(known), lenient.mapping(cast("dict[str, Any]", value)))
        elif value is None:
            total[name] = known
        elif _is_count(value) and _is_count(known):
            total[name] = value + known
    return total


def _is_count(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Return a value without raw JSON text in it, which the general encoder does not know."""
    if isinstance(value, msgspec.Raw):
        return lenient.read(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    return value
