"""Finding a member's value in JSON text, against the standard library's parser."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgecore import find_member

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
