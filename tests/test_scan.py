"""Finding a member's value in JSON text, against the standard library's parser."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgecore import cut_down, find_each, find_member, find_members
from jsontext import as_object, render, values

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["a", "b", "stream_options", 'quo"te', "back\\slash", "ünïcode", ""])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), NAMES, st.booleans(), st.sampled_from(["", " ", "\n\t "]))
def test_finds_the_last_member_of_a_name(members: list[tuple[str, Any]], wanted: str, escape: bool, space: str) -> None:
    """The span holds exactly the value that a parser gives for that name."""
    body = ",".join(
        f"{space}{json.dumps(name, ensure_ascii=escape)}{space}:{space}{json.dumps(value, ensure_ascii=escape)}{space}"
        for name, value in members
    )
    data = f"{space}{{{body}{space}}}{space}".encode()
    span = find_member(data, wanted)
    expected: dict[str, Any] = json.loads(data)
    assert (span is not None) == (wanted in expected)
    if span is not None:
        assert json.loads(data[span[0] : span[1]]) == expected[wanted]
    names = ("a", wanted, "b", wanted)
    assert find_each(data, names) == [find_member(data, name) for name in names]
    values_of = [data[start:end] for start, end in find_members(data, wanted)]
    assert [json.loads(value) for value in values_of] == [value for name, value in members if name == wanted]


def test_reads_an_escaped_name() -> None:
    """A name may be spelled with escapes, and is then compared decoded."""
    data = rb'{"\u0061b":[1,"]"],"x":"\\"}'
    assert find_member(data, "ab") == (11, 18)
    assert find_member(data, "x") == (23, 27)


def test_passes_over_nested_members_and_starts_where_it_is_told() -> None:
    """Only the members of the one object count."""
    data = b'{"a":{"b":1,"c":{"b":2}},"d":3}'
    assert find_member(data, "b") is None
    start, end = find_member(data, "a") or (0, 0)
    assert find_member(data, "b", start) == (10, 11)
    assert data[start:end] == b'{"b":1,"c":{"b":2}}'


@pytest.mark.parametrize(
    "data", [b"", b"[1]", b'{"a"', b'{"a":', b'{"a":1', b'{"a":"x', b'{"a":[1,{}', b'{"a" 1}', b'{"a":}']
)
def test_refuses_what_is_not_a_whole_object(data: bytes) -> None:
    """Text that is no JSON object is an error, never a read past its end."""
    with pytest.raises(ValueError, match="offset"):
        find_member(data, "a")


@given(st.binary(max_size=60))
def test_never_strays_on_arbitrary_bytes(data: bytes) -> None:
    """Arbitrary bytes give a span inside of them, None, or ValueError."""
    try:
        span = find_member(b"{" + data, "a")
    except (ValueError, UnicodeDecodeError):
        return
    assert span is None or 0 < span[0] <= span[1] <= len(data) + 1


def cut(data: bytes, *names: str) -> bytes | None:
    """Cut *data* down to *names*."""
    return cut_down(data, frozenset(name.encode() for name in names))


def last_only(value: Any) -> Any:
    """Return what is left of a member."""
    return value[-1:] if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]


@given(values(["a", "b", "c"], ["x", "\\", '"', "é"]), st.randoms(use_true_random=False))
def test_cuts_an_object_down(value: Any, random: Random) -> None:
    """What is left is what a parser gives for those members, with the last element of an array."""
    text = render(value, random)
    data = text.encode("utf-8", "surrogatepass")
    left = cut(data, "a", "b")
    parsed = parsed_or_none(data)
    if left is not None:
        members = as_object(parsed)
        expected = {name: last_only(item) for name, item in members.items() if name in {"a", "b"}}
        assert json.loads(left.decode()) == expected
    elif isinstance(parsed, dict):
        assert any("\\" in part for part in text.split('"'))  # an escaped name is left to a parser


@given(values(["a", "b", "c"], ["x", "\\", '"', "é"]), st.randoms(use_true_random=False))
def test_says_where_the_elements_before_the_last_ones_are(value: Any, random: Random) -> None:
    """Of each array that is left and has two elements or more, in the order of the text."""
    data = render(value, random).encode("utf-8", "surrogatepass")
    before: list[tuple[int, int]] = []
    if cut_down(data, frozenset([b"a", b"b"]), before) is None:
        return
    members: Any = json.loads(data, object_pairs_hook=tuple)  # objects become tuples of pairs, arrays stay lists
    arrays: list[list[Any]] = [item for name, item in members if name in {"a", "b"} and isinstance(item, list)]
    found = [json.loads(data[start:end], object_pairs_hook=tuple) for start, end in before]
    assert found == [item[-2] for item in arrays if len(item) > 1]


def parsed_or_none(data: bytes) -> Any:
    """Return what the standard library reads, None where it finds no JSON."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(data.decode(), parse_constant=refuse)
    except ValueError:
        return None


TOKENS = st.sampled_from(rb'{|}|[|]|:|,|"a"|"b"|"|\|1|-|0|.5|e+1|true|nul|NaN| |\u12|\n'.split(b"|"))
BYTES = st.sampled_from([b"\n", b"\x00", b"\x1f", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])


@given(st.lists(TOKENS | BYTES, max_size=16).map(b"".join))
def test_accepts_what_a_parser_accepts(data: bytes) -> None:
    """Neither more nor less, but for names that hold an escape."""
    data = b'{"a":' + data
    for text in (data, data + b"}", b'{"a":"' + data + b'"}'):
        is_object = isinstance(parsed_or_none(text), dict)
        assert (cut(text, "a") is not None) == is_object or b"\\" in text
        assert is_object or cut(text, "a") is None


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), st.integers(0, 40))
def test_strings_end_where_they_end(text: str, padding: int) -> None:
    """Wherever in a block of bytes a quote, an escape or a longer character stands."""
    value = "x" * padding + text
    for is_ascii in (True, False):
        data = b'{"b":%b,"a":1}' % json.dumps(value, ensure_ascii=is_ascii).encode()
        assert cut(data, "a") == b'{"a":1}'


@given(st.binary(max_size=8), st.integers(0, 20))
def test_only_utf8_is_accepted(junk: bytes, padding: int) -> None:
    """As the standard library decodes it."""
    data = b'{"a":"' + b"x" * padding + junk + b'"}'
    assert (cut(data, "a") is not None) == (parsed_or_none(data) is not None)


@pytest.mark.parametrize("depth", [1, 200, 256, 257, 100_000])
def test_depth_is_bounded(depth: int) -> None:
    """A text that is nested more deeply is left to a parser, which says what is wrong with it."""
    data = b'{"b":' + b"[" * depth + b"]" * depth + b',"a":1}'
    assert cut(data, "a") == (b'{"a":1}' if depth <= 256 else None)


def test_every_member_of_a_name_is_kept() -> None:
    """Which of them counts is not decided here."""
    assert cut(b' {"a" : [1, {"c":2} ],"b":[3],"a":[ ] , "a":"x"} ', "a") == b'{"a":[{"c":2}],"a":[],"a":"x"}'
    assert cut(b"{}", "a") == b"{}"
    assert cut(b' { "b" : 1 } ', "a") == b"{}"
