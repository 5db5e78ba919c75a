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
