"""The JSON of an administrative request to a type, with mistakes that help and never show a value."""

import re
from typing import Any, TypeVar, cast

import msgspec

from bridgeserver.asks import MAX_BODY_BYTES, Refused
from bridgeserver.config.sources import unknown
from bridgeserver.secret import Secret

T = TypeVar("T", bound=msgspec.Struct)

MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
"""What a mistake may show of an unknown member's name: a key that strayed there is none of these."""

KINDS = {"dict": "an object", "list": "a list", "str": "a text", "bool": "true or false", "NoneType": "null"}


def read(body: bytes) -> object:
    """Return the JSON value that *body* is; raises Refused."""
    if len(body) > MAX_BODY_BYTES:
        raise Refused(413, f"the body has {len(body)} bytes; at most {MAX_BODY_BYTES} are accepted")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        reason = "it is empty" if not body else "its nesting is too deep" if isinstance(exc, RecursionError) else exc
        raise Refused(400, f"body: found no JSON ({reason}), expected an object in UTF-8") from exc


def convert(value: object, kind: type[T], place: str = "body") -> T:
    """Return the struct that a JSON value is; raises Refused, with *place* as where the value stands."""
    if not isinstance(value, dict):
        raise Refused(400, f"{place}: found {KINDS.get(type(value).__name__, 'a number')}, expected an object")
    known = [field.encode_name for field in msgspec.structs.fields(kind)]
    for name in cast("dict[str, object]", value):
        if name not in known:
            shown = name if MEMBER.fullmatch(name) else "a member"
            raise Refused(400, unknown(place, shown, name[:40], known))
    try:
        return msgspec.convert(value, kind, dec_hook=_secret)
    except msgspec.ValidationError as exc:
        raise Refused(400, f"{place}: {exc}") from exc


def _secret(kind: type, value: Any) -> Secret:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise ValueError(f"Expected a text, found {KINDS.get(type(value).__name__, 'a number')}")
