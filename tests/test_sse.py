"""The event stream scanner, against the standard and against an oracle that is too simple to be wrong."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgecore import Event, Interest, Scanner


def scan(stream: bytes, size: int) -> list[tuple[bytes, bytes]]:
    """Return (name, data) of the events of *stream*, fed in chunks of *size* bytes."""
    scanner = Scanner()
    events = [
        event for at in range(0, len(stream), size) for event in scanner.feed(stream[at : at + size])
    ] + scanner.finish()
    return [(event.name, event.data) for event in events]


def oracle(stream: bytes) -> list[tuple[bytes, bytes]]:
    """Return what section 9.2.6 of the HTML standard says, with a last event that needs no blank line."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[tuple[bytes, bytes]] = []
    name, data = b"", list[bytes]()
    for line in [*text.split(b"\n"), b""]:
        field, colon, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data:
                events.append((name, b"\n".join(data)))
            name, data = b"", []
        elif field == b"data":
            data.append(value if colon else b"")
        elif field == b"event":
            name = value if colon else b""
    return events


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_every_line_ending_bom_comment_and_multi_line_data(size: int) -> None:
    """The events are the same wherever the stream is cut."""
    stream = (
        b"\xef\xbb\xbfevent: a\r\ndata: 1\r\n\r\n: comment\r\n\r\ndata: 2\rdata: 3\r\rdata:4\n\n"
        b"id: 7\nretry: 5\nunknown\n\nevent: z\ndata: tail"
    )
    assert scan(stream, size) == [(b"a", b"1"), (b"", b"2\n3"), (b"", b"4"), (b"z", b"tail")]


LINES = st.sampled_from([b"data: x", b"data:", b"data", b"event: n", b"event", b": c", b"", b"", b"datax: 1", b"id: 1"])
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@given(st.lists(st.tuples(LINES, ENDS), max_size=30), st.integers(1, 9), st.booleans())
def test_equals_the_oracle(lines: list[tuple[bytes, bytes]], size: int, has_bom: bool) -> None:
    """Any mixture of lines and line endings, cut anywhere, gives the oracle's events."""
    stream = (b"\xef\xbb\xbf" if has_bom else b"") + b"".join(line + end for line, end in lines)
    # A CR followed by an LF of the next pair would be one line end; the oracle sees it the same way.
    assert scan(stream, size) == oracle(stream)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_takes_any_bytes(stream: bytes, size: int) -> None:
    """Whatever comes, it is scanned like the oracle does it and never raises."""
    assert scan(stream, size) == oracle(stream)


@given(st.lists(st.tuples(LINES, ENDS), max_size=30), st.integers(1, 9))
def test_offsets_cut_the_stream_into_events(lines: list[tuple[bytes, bytes]], size: int) -> None:
    """`start` and `end` delimit the bytes of each event, in order and without overlap."""
    stream = b"".join(line + end for line, end in lines)
    scanner = Scanner()
    done = 0
    for at in range(0, len(stream), size):
        for event in scanner.feed(stream[at : at + size]):
            assert done <= event.start < event.end <= scanner.position
            assert oracle(stream[event.start : event.end]) == [(event.name, event.data)]
            done = event.end
    assert scanner.position == len(stream)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_passes_over_an_event_larger_than_the_cap(size: int) -> None:
    """An oversized event is counted, not kept, and the next one is found."""
    stream = b"data: small\n\ndata: " + b"x" * 100 + b"\r\ndata: y\r\n\r\ndata: next\n\n"
    scanner = Scanner(50)
    events = [event.data for at in range(0, len(stream), size) for event in scanner.feed(stream[at : at + size])]
    assert events == [b"small", b"next"]
    assert scanner.oversized == 1


def test_knows_whether_it_stands_between_events() -> None:
    """An event of our own may follow only where no other one is open."""
    scanner = Scanner()
    assert scanner.is_between_events
    scanner.feed(b"data: 1")
    assert not scanner.is_between_events
    scanner.feed(b"\n\n")
    assert scanner.is_between_events
    assert scanner.boundary == scanner.position == 9


def test_refuses_a_cap_of_nothing() -> None:
    """The cap must be positive."""
    with pytest.raises(ValueError, match="max_event_bytes must be positive, got 0"):
        Scanner(0)


EVENTS = st.tuples(
    st.sampled_from([b"", b"a", b"b", b"ab", b"c"]), st.lists(st.sampled_from([b"dull", b"x", b"xdullx", b"dul", b""]))
)


@given(st.lists(EVENTS, max_size=8), st.integers(1, 60))
def test_only_what_is_asked_for_is_made(parts: list[tuple[bytes, list[bytes]]], size: int) -> None:
    """The events are those of a scanner that makes all of them, without the others, at the same places."""
    stream = b"".join(
        b"".join([b"event: %b\n" % name if name else b"", *(b"data: %b\n" % line for line in lines), b"\n"])
        for name, lines in parts
    )
    some, every = Scanner(interest=Interest([b"a", b"ab"], {b"a": b"dull"})), Scanner()
    found, expected = list[Any](), list[Any]()
    for at in range(0, len(stream), size):
        found += map(content, some.feed(stream[at : at + size]))
        expected += map(content, every.feed(stream[at : at + size]))
    assert found == [
        event
        for event in expected
        if event[0] in {b"", b"ab"} or (event[0] == b"a" and (b"dull" not in event[1] or b"\n" in event[1]))
    ]
    assert (some.position, some.boundary) == (every.position, every.boundary)


def content(event: Event) -> tuple[bytes, bytes, int, int]:
    """Return all that an event says."""
    return event.name, event.data, event.start, event.end


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(b"data: a\n\n", [(b"", b"a")], id="gw-U5-no-type"),
        pytest.param(b"event: e\ndata: a\n\n", [(b"e", b"a")], id="gw-U5-type"),
        pytest.param(b"data: a\ndata: b\n\n", [(b"", b"a\nb")], id="gw-U5-lines-joined"),
        pytest.param(b"data:  a\n\n", [(b"", b" a")], id="gw-U5-one-space"),
        pytest.param(b"data:a\n\n", [(b"", b"a")], id="gw-U5-no-space"),
        pytest.param(b"id: 1\nretry: 10\ndata: a\n\n", [(b"", b"a")], id="gw-U5-id-and-retry"),
        pytest.param(b"retry: x\ndata: a\n\n", [(b"", b"a")], id="gw-U5-retry-no-number"),
        pytest.param(b": comment\ndata: a\n\n", [(b"", b"a")], id="gw-U5-comment"),
        pytest.param(b"nonsense\ndata: a\n\n", [(b"", b"a")], id="gw-U5-no-colon"),
        pytest.param(b"\n\n: comment\n\nevent: e\n\n", [], id="gw-U5-empty"),
        pytest.param(b"data: a\n\ndata: b", [(b"", b"a"), (b"", b"b")], id="gw-U5-last-without-blank-line"),
    ],
)
def test_what_an_event_is(stream: bytes, events: list[tuple[bytes, bytes]]) -> None:
    """As the standard says, and so an event without data is none, and its type may be empty.

    What an answer ends with counts too, so that the tokens of a stream that lacks its last blank line are not lost.
    """
    assert scan(stream, 1000) == events
