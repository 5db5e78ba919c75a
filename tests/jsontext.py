"""JSON texts for property tests: any white space, any escape, members more than once."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any, cast

from hypothesis import strategies as st

_SPACES = ("", "", "", " ", "\n", "\t", "\r\n  ")

texts = st.text(st.characters(exclude_categories=()), max_size=8)
"""Any text, lone surrogates included."""

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(10**30), max_value=10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)


class Members(list[tuple[str, Any]]):
    """An object as the list of its members, which may repeat a name."""


def values(names: list[str], words: list[str]) -> st.SearchStrategy[Any]:
    """Return JSON values whose member names and strings are often those that matter."""
    leaves = st.one_of(scalars, st.sampled_from(words))
    member_names = st.one_of(st.sampled_from(names), texts)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(st.tuples(member_names, inner), max_size=5).map(Members),
        ),
        max_leaves=12,
    )


spellings = st.integers(0, 2**64 - 1).map(Random)
"""What chooses a spelling: one draw, where `st.randoms` draws for every character."""

_CODES = ((0, 0x20), (0x20, 0x7F), (0x7F, 0x800), (0x800, 0xD800), (0xD800, 0xE000), (0xE000, 0x11_0000))
_CONSTANTS = (None, True, False, 0, -1, 0.5, "")


class AnyValue:
    """Makes JSON values of any kind from a seed alone, where thousands are needed: one draw for each."""

    def __init__(self, names: list[str], words: list[str]) -> None:
        self._names, self._words = names, words

    def __call__(self, random: Random, depth: int = 3) -> Any:
        """Return a value; in it, the names and words that matter are frequent."""
        kind = random.randrange(8) if depth else random.randrange(2, 8)
        if kind == 0:
            return [self(random, depth - 1) for _ in range(random.randrange(5))]
        if kind == 1:
            return Members((self._name(random), self(random, depth - 1)) for _ in range(random.randrange(6)))
        if kind == 2:
            return random.randint(-(10**30), 10**30)
        if kind == 3:
            return random.uniform(-1, 1) * 10.0 ** random.randint(-320, 308)
        if kind == 4:
            return random.choice(_CONSTANTS)
        return random.choice(self._words) if kind == 5 else any_text(random)

    def _name(self, random: Random) -> str:
        return random.choice(self._names) if random.random() < 0.5 else any_text(random)


def any_text(random: Random) -> str:
    """Return any text from a seed alone, lone surrogates included."""
    return "".join(chr(random.randrange(*random.choice(_CODES))) for _ in range(random.randrange(9)))


def render(value: Any, random: Random) -> str:
    """Return *value* as JSON text in a spelling that *random* chooses."""
    if isinstance(value, Members):
        members = (f"{_string(name, random)}{_space(random)}:{render(item, random)}" for name, item in value)
        return _spaced("{" + ",".join(members) + "}", random)
    if isinstance(value, list):
        items = (render(item, random) for item in _elements(value))
        return _spaced("[" + ",".join(items) + "]", random)
    return _spaced(_string(value, random) if isinstance(value, str) else json.dumps(value), random)


def as_object(value: Any) -> dict[str, Any]:
    """Return a parsed object, or an empty one where *value* is none."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a parsed array, without its other elements."""
    return [as_object(item) for item in _elements(value) if isinstance(item, dict)]


def as_last(value: Any) -> dict[str, Any]:
    """Return the last element of a parsed array where that is an object."""
    items = _elements(value)
    return as_object(items[-1]) if items else {}


def storable(value: Any) -> str:
    """Return a string as it can be stored, or an empty one where *value* is none."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _elements(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()


def _string(text: str, random: Random) -> str:
    return '"' + "".join(_character(character, random) for character in text) + '"'


def _character(character: str, random: Random) -> str:
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF or random.random() < 0.1:
        return json.dumps(character)[1:-1] if not character.isascii() else f"\\u{code:04x}"
    return json.dumps(character, ensure_ascii=False)[1:-1]


def _space(random: Random) -> str:
    return random.choice(_SPACES)


def _spaced(text: str, random: Random) -> str:
    return _space(random) + text + _space(random)
