"""Reading a request body: only the members that a protocol names are built, the rest is passed over.

A body is walked over once, and cut down to the members that are asked for and to the last elements of their arrays;
what is left is small, and a parser reads it. Bodies that are unusual in any way are read by a general parser.
"""

import codecs
import json
from typing import Any, Generic, NoReturn, cast

import msgspec

from bridgecore import cut_down
from bridgeserver.errors import BadRequest
from bridgeserver.protocols import lenient
from bridgeserver.protocols.lenient import Shape

_KINDS: dict[type, str] = {
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


class BodyReader(Generic[Shape]):
    """Reads the members of a *shape*, of whose arrays only the last element is wanted."""

    def __init__(self, shape: type[Shape]) -> None:
        self._decoder = msgspec.json.Decoder(shape)
        self._shape = shape
        self._names = frozenset(name.encode() for name in shape.__struct_fields__)

    def read(self, body: bytes, before: list[tuple[int, int]] | None = None) -> tuple[Shape, bytes]:
        """Return the members, and JSON text that holds every one of their names wherever *body* does.

        *before* gets where the elements before the last ones stand in *body*, unless it is an unusual one.
        Raises BadRequest unless *body* is one JSON object in UTF-8. Where the typed decoder gives up, members are what
        a general parser makes of them, of any type.
        """
        text = cut_down(body, self._names, before)
        if text is None:
            _check_encoding(body)
            text = body
        try:
            return self._decoder.decode(text), text
        except RecursionError:
            _refuse_depth()
        except ValueError:
            # A member of another type, a lone surrogate, or not JSON at all; the slow parser tells them apart.
            return lenient.fill(self._shape, _parse(body)), body


def last(elements: Any) -> Any:
    """Return the last element of an array, parsed, or None where there is none."""
    found = lenient.array(elements)
    return lenient.element(found[-1]) if found else None


def _check_encoding(body: bytes) -> None:
    """Look at all of the text: the typed decoder does not look inside what it passes over."""
    if body.isascii():
        return
    if body.startswith(codecs.BOM_UTF8):
        _refuse("a byte order mark before it", "send the text without one")
    try:
        body.decode()
    except UnicodeDecodeError as failure:
        _refuse(f"bytes that are not UTF-8 at byte {failure.start}", "send JSON in UTF-8", failure)


def _parse(body: bytes) -> dict[str, Any]:
    text = body.decode()
    if not text.strip(" \t\r\n"):
        _refuse("an empty body", "send one")
    try:
        value = lenient.load(text)
    except RecursionError:
        _refuse_depth()
    except json.JSONDecodeError as failure:
        offset = len(text[: failure.pos].encode())
        _refuse(f"text that is not JSON at byte {offset}: {failure.msg}", "correct it", failure)
    except ValueError as failure:
        _refuse(f"text that is not JSON: {failure}", "correct it", failure)
    if not isinstance(value, dict):
        _refuse(_KINDS[type(value)], "send an object")
    return cast("dict[str, Any]", value)


def _refuse_depth() -> NoReturn:
    _refuse("one that is nested too deeply to be read", "send fewer levels")


def _refuse(found: str, advice: str, cause: Exception | None = None) -> NoReturn:
    raise BadRequest(f"expected a JSON object as the body, found {found}; {advice}") from cause
