"""One given value to the type of its option; every mistake in it is noted, and none shows a secret."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast, get_args, get_origin

import msgspec

from bridgeserver.config.sources import Given, quoted
from bridgeserver.secret import Secret

WRONG: Final = object()
"""What a value with a mistake is converted to."""

TRUE = frozenset({"true", "1", "yes", "on"})
FALSE = frozenset({"false", "0", "no", "off"})
MAX_SHOWN = 60
REFERENCES = ("env:", "file:")
KEY = re.compile(r"[\x21-\x7e]+")
KEY_RULE = "a key of visible ASCII characters without spaces"


class Option(NamedTuple):
    """What the schema says of one type."""

    annotation: Any
    base: Any
    expected: str
    check: Callable[[Any], bool] | None
    is_secret: bool
    may_be_single: bool
    may_be_reference: bool


def option_of(annotation: Any) -> Option:
    """Return what an `Annotated` type of the schema says."""
    base, meta = get_args(annotation)
    extra = cast("dict[str, Any]", meta.extra or {})
    return Option(
        annotation,
        base,
        meta.description,
        extra.get("check"),
        extra.get("is_secret", False),
        extra.get("may_be_single", False),
        extra.get("may_be_reference", False),
    )


class Converter:
    """Converts values; relative paths count from *folder*, and `env:` reads *environ*."""

    def __init__(self, folder: Path, environ: Mapping[str, str], mistakes: list[str]) -> None:
        self._folder = folder
        self._environ = environ
        self.mistakes = mistakes

    def wrong(self, given: Given, found: str, expected: str) -> object:
        """Note a mistake."""
        self.mistakes.append(f"{given.source}: {given.key}: found {found}, expected {expected}")
        return WRONG

    def convert(self, given: Given, annotation: Any) -> object:
        """Return the value as the type of its option, or WRONG."""
        option = option_of(annotation)
        if given.is_text:
            given = given.member("", from_text(str(given.value), option.base))
        if option.may_be_single and isinstance(given.value, str):
            given = given.member("", [given.value])
        kind, value = get_origin(option.base), given.value
        if kind is tuple and isinstance(value, list):
            return self._items(given, cast("list[object]", value), get_args(option.base)[0])
        if kind is dict and isinstance(value, dict):
            return self._table(given, cast("dict[str, object]", value), *get_args(option.base))
        return self._single(given, option)

    def _items(self, given: Given, items: list[object], annotation: Any) -> object:
        values = [self.convert(given.member(f"[{index}]", item), annotation) for index, item in enumerate(items)]
        return WRONG if WRONG in values else tuple(values)

    def _table(self, given: Given, table: dict[str, object], name_type: Any, value_type: Any) -> object:
        values: dict[object, object] = {}
        for name, item in table.items():
            place = f".{quoted(name)}"
            name_value = self.convert(given.member(place, name), name_type)
            values[name_value] = self.convert(given.member(place, item), value_type)
        return WRONG if WRONG in values or WRONG in values.values() else values

    def _single(self, given: Given, option: Option) -> object:
        if option.base is Secret:
            return self.secret(given, option)
        if Path in {option.base, *get_args(option.base)}:
            return self._path(given, option)
        if option.may_be_reference and isinstance(given.value, str) and given.value.startswith(REFERENCES):
            found = self.secret(given, option)
            return found.reveal() if isinstance(found, Secret) else found
        try:
            value = msgspec.convert(given.value, option.annotation)
        except msgspec.ValidationError:
            value = WRONG
        if value is WRONG or (option.check is not None and not option.check(value)):
            return self.wrong(given, shown(given.value, option), option.expected)
        return value

    def _path(self, given: Given, option: Option) -> object:
        path = given.value
        if not isinstance(path, str) or not path or "\0" in path:
            return self.wrong(given, shown(path, option), option.expected)
        return self._folder / path

    def secret(self, given: Given, option: Option) -> object:
        """Return the secret that a literal is, or that a reference leads to."""
        reference = given.value
        if not isinstance(reference, str):
            return self.wrong(given, "no text", 'a literal, "env:NAME" or "file:PATH"')
        kind, _, rest = reference.partition(":")
        if kind == "env":
            return self._variable(given, rest, option)
        if kind == "file":
            return self._file(given, rest, option)
        return self.key(given, reference, option, f"a literal of {len(reference)} characters")

    def _variable(self, given: Given, name: str, option: Option) -> object:
        if not self._environ.get(name):
            state = "empty" if name in self._environ else "not set"
            return self.wrong(given, f"env:{name}, which is {state}", f"a variable that holds {option.expected}")
        return self.key(given, self._environ[name], option, f"env:{name}, which holds something else")

    def _file(self, given: Given, path: str, option: Option) -> object:
        try:
            text = (self._folder / path).read_bytes().decode("latin-1")
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else exc
            expected = f"a file that holds {option.expected}"
            return self.wrong(given, f"file:{path}, which cannot be read ({reason})", expected)
        text = text.removesuffix("\n").removesuffix("\r")
        return self.key(given, text, option, f"file:{path}, which holds something else")

    def key(self, given: Given, key: str, option: Option, found: str) -> object:
        """Return a key as a secret, if it is what its option takes."""
        if option.check is None:
            return Secret(key) if KEY.fullmatch(key) else self.wrong(given, found, KEY_RULE)
        return Secret(key) if option.check(key) else self.wrong(given, found, option.expected)


class LiteralConverter(Converter):
    """Converts what arrives over the API, on the command line or from the store: a secret is a literal there.

    Following a reference would let a caller have the gateway read its own files and variables.
    """

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__(Path(), {}, mistakes)

    def secret(self, given: Given, option: Option) -> object:
        reference = given.value
        if not isinstance(reference, str):
            return self.wrong(given, "no text", "the secret itself")
        if reference.startswith(REFERENCES):
            kind = reference.partition(":")[0]
            expected = "the secret itself: references are followed in the configuration file and the environment only"
            return self.wrong(given, f"a reference that begins with {kind}:", expected)
        return self.key(given, reference, option, f"a literal of {len(reference)} characters")


def from_text(text: str, base: Any) -> object:
    """Return what the text of a variable spells for an option of type *base*, or the text if it spells nothing."""
    if base is bool:
        word = text.lower()
        return word in TRUE if word in TRUE | FALSE else text
    try:
        if base in {int, float}:
            return base(text)
        if get_origin(base) is tuple and not text.startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        return msgspec.json.decode(text) if get_origin(base) in {tuple, dict} else text
    except (ValueError, msgspec.DecodeError):
        return text


def shown(value: object, option: Option) -> str:
    """Return a value as a mistake may show it."""
    if option.is_secret:
        return f"a value of type {type(value).__name__}"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str) and "//" in value:
        # A URL may hold a password before its last @, and a key in its query or behind that; where the @ was forgotten
        # or stands in the password, nothing tells where that ends.
        value = re.sub("^postgres.*?//.*", "postgresql://…", value, flags=re.DOTALL)
        value = re.split("[?#]", re.sub(r"//.*@", "//…@", value, flags=re.DOTALL), maxsplit=1)[0]
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
