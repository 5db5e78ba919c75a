"""Reading a request body: only the members that a protocol names are built, the rest is passed over."""

import codecs
import json
from typing import Any, NoReturn, cast

import msgspec

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


def read_body(body: bytes, decoder: msgspec.json.Decoder[Shape]) -> Shape:
    """Return the members that *decoder* names; raise BadRequest unless *body* is one JSON object in UTF-8.

    Where the typed decoder gives up, members are what a general parser makes of them, of any type.
    """
    _check_encoding(body)
    try:
        return decoder.decode(body)
    except RecursionError:
        _refuse_depth()
    except ValueError:
        # A member of another type, a lone surrogate, or not JSON at all; the slow parser tells them apart.
        return lenient.fill(decoder.type, _parse(body))


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
