"""Reading JSON whose shape nobody promised: a value of the wrong type counts as absent."""

import json
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import msgspec

from bridgecore import find_member

Shape = TypeVar("Shape", bound=msgspec.Struct)

IDENTIFIER_LIMIT = 1024
"""Characters kept of an id or a name; real ones stay below 200."""

INTEGER_LIMIT = 2**63 - 1
"""The largest count that the store's integer columns hold."""

INTEGER_DIGITS = 1000
"""Longer integers become floats: Python refuses to convert those beyond 4,300 digits."""


def load(text: str) -> Any:
    """Parse JSON, lone surrogates included; raise ValueError or RecursionError where that fails."""
    return json.loads(text, parse_int=_integer, parse_constant=_refuse)


def read(data: bytes | msgspec.Raw) -> Any:
    """Parse what should be JSON; None where it cannot be read."""
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        return load(bytes(data).decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def fill(shape: type[Shape], members: dict[str, Any]) -> Shape:
    """Build a *shape* from the members that it names, whatever their types are."""
    return shape(**{name: members[name] for name in shape.__struct_fields__ if name in members})


def element(value: Any) -> Any:
    """Return a list's element, which a typed decoder leaves as raw text and a general one has parsed."""
    return read(value) if isinstance(value, msgspec.Raw) else value


def mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def array(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def identifier(value: Any) -> str:
    """Return a string cut to what an id or a name may be, with lone surrogates replaced."""
    found = text(value)[:IDENTIFIER_LIMIT]
    return found if found.isascii() else found.encode("utf-8", "replace").decode()


def count(value: Any) -> int | None:
    """Return a number of things, or None where it is not one that can be stored."""
    return value if type(value) is int and 0 <= value <= INTEGER_LIMIT else None


def member_text(data: bytes, *path: str) -> str | None:
    """Return the JSON text of a nested member as it stands in *data*, or None where it is not there."""
    start, end = 0, len(data)
    for name in path:
        try:
            span = find_member(data, name, start)
        except ValueError:
            return None
        if span is None:
            return None
        start, end = span
    return data[start:end].decode("utf-8", "replace")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= INTEGER_DIGITS else float(digits)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
