"""Header fields: looked up, searched, and written as the lines of another head."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgecore import by_name, values_with, write_lines

NAMES = st.sampled_from([b"a", b"b", b"x-a", b"x-b", b"xy", b"connection", b"te"])
VALUES = st.sampled_from([b"", b"1", b"a", b"A, x-b", b"keep-alive", b"close", b"te , b"])
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


@given(FIELDS)
def test_the_first_of_several_values_counts(pairs: list[tuple[bytes, bytes]]) -> None:
    """As a search from the front finds it."""
    assert by_name(pairs) == dict(reversed(pairs))
    assert list(by_name(pairs)) == list(dict.fromkeys(name for name, _value in pairs))


@given(FIELDS, st.sampled_from([b"", b"a", b"-"]))
def test_values_are_searched(pairs: list[tuple[bytes, bytes]], part: bytes) -> None:
    """All that hold the part, in their order."""
    assert values_with(pairs, part) == [value for _name, value in pairs if part in value]


@given(FIELDS, st.frozensets(NAMES), st.sampled_from([(), (b"x-",), (b"x-a", b"te")]))
def test_what_is_written(
    pairs: list[tuple[bytes, bytes]], held_back: frozenset[bytes], starts: tuple[bytes, ...]
) -> None:
    """All but what is held back by name, by its beginning, or because `connection` names it."""
    nominated = {
        field.strip()
        for name, value in pairs
        if name == b"connection" and value not in {b"keep-alive", b"close"}
        for field in value.lower().split(b",")
    }
    kept = [
        (name, value)
        for name, value in pairs
        if name not in held_back | nominated and not (starts and name.startswith(starts))
    ]
    assert write_lines(pairs, held_back, starts) == b"".join(b"%b: %b\r\n" % pair for pair in kept)


@pytest.mark.parametrize("value", [b"a\r", b"a\nb", b"\0"])
def test_a_value_that_would_end_its_line_is_refused(value: bytes) -> None:
    """Whoever made it; and not at all where it is held back."""
    with pytest.raises(ValueError, match="header field x-a holds a CR, LF or NUL"):
        write_lines([(b"x-a", value)])
    assert write_lines([(b"x-a", value)], frozenset({b"x-a"})) == b""
