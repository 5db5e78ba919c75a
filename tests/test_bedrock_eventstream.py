"""AWS's binary event streams into server-sent events."""

import base64
import json
import struct
from itertools import pairwise
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from bridgecore import Scanner
from bridgeserver.bedrock.eventstream import BrokenFrame, EventStreamDecoder, error_type
from bridgeserver.protocols.messages import MessagesTap

START = b'{"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":9,"output_tokens":1}}}'
DELTA = '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"h\\u00e9 é"}}'.encode()
STOP = b'{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":9}}'


def header(name: bytes, value: bytes, kind: int = 7) -> bytes:
    length = struct.pack(">H", len(value)) if kind in {6, 7} else b""
    return bytes([len(name)]) + name + bytes([kind]) + length + value


def frame(payload: bytes, headers: bytes) -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))


def chunk(data: bytes) -> bytes:
    headers = header(b":event-type", b"chunk") + header(b":content-type", b"application/json")
    payload = json.dumps({"bytes": base64.b64encode(data).decode(), "p": "abcdefgh"}).encode()
    return frame(payload, headers + header(b":message-type", b"event"))


def exception(name: str, payload: bytes) -> bytes:
    return frame(payload, header(b":exception-type", name.encode()) + header(b":message-type", b"exception"))


def events(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % pair for pair in pairs)


WHOLE = chunk(START) + chunk(DELTA) + chunk(STOP)
TEXT = events((b"message_start", START), (b"content_block_delta", DELTA), (b"message_stop", STOP))


@pytest.mark.parametrize("cut", range(len(WHOLE) + 1))
def test_a_cut_anywhere_changes_nothing(cut: int) -> None:
    """Whatever a read brings, the same events come out, each as soon as its frame is whole."""
    decoder = EventStreamDecoder()
    first = decoder.feed(WHOLE[:cut])
    assert TEXT.startswith(first)
    assert first.count(b"\n\n") == sum(
        cut >= len(whole) for whole in (chunk(START), chunk(START) + chunk(DELTA), WHOLE)
    )
    assert first + decoder.feed(WHOLE[cut:]) == TEXT
    decoder.finish()


def test_a_byte_at_a_time() -> None:
    """The slowest network is one too."""
    decoder = EventStreamDecoder()
    assert b"".join(decoder.feed(bytes([byte])) for byte in WHOLE) == TEXT
    assert decoder.held_bytes == 0


@given(st.lists(st.binary(max_size=60), max_size=5), st.lists(st.integers(0, 600), max_size=6))
def test_any_data_in_any_cuts(contents: list[bytes], cuts: list[int]) -> None:
    """Data that is no JSON at all comes out as it is, but that a line's end is always a newline."""
    stream = b"".join(map(chunk, contents))
    decoder, scanner = EventStreamDecoder(), Scanner()
    found: list[bytes] = []
    places = [0, *sorted(cuts), len(stream)]
    for start, end in pairwise(places):
        found += [event.data for event in scanner.feed(decoder.feed(stream[start:end]))]
    lines = [b"\n".join(data.splitlines()) for data in contents]
    assert [data for data in found if data] == [data for data in lines if data]


def test_the_frames_are_those_of_botocore() -> None:
    """What the tests make is what AWS's own decoder reads."""
    buffer = EventStreamBuffer()
    buffer.add_data(WHOLE)
    payloads = [json.loads(message.payload) for message in buffer]
    assert [base64.b64decode(payload["bytes"]) for payload in payloads] == [START, DELTA, STOP]


def test_the_tap_reads_what_comes_out() -> None:
    """The account of a stream is that of a stream from Anthropic."""
    tap = MessagesTap()
    for event in Scanner().feed(EventStreamDecoder().feed(WHOLE)):
        tap.event(event.name, event.data)
    assert (tap.response_id, tap.complete, tap.usage and tap.usage.input) == ("msg_1", True, 9)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(b'{"type":"ping"}', b'event: ping\ndata: {"type":"ping"}\n\n', id="plain"),
        pytest.param(b'{\n"type":\r\n"ping"}', b'event: ping\ndata: {\ndata: "type":\ndata: "ping"}\n\n', id="lines"),
        pytest.param(b'{"type":"a\\nb"}', b'data: {"type":"a\\nb"}\n\n', id="a-name-of-two-lines"),
        pytest.param(b'{"type":"\\ud800"}', b'data: {"type":"\\ud800"}\n\n', id="a-name-of-no-character"),
        pytest.param(b'{"type":7}', b'data: {"type":7}\n\n', id="no-name"),
        pytest.param(b'{"type":', b'data: {"type":\n\n', id="not-json"),
        pytest.param(b'{"type":"a","x":1e999}', b'event: a\ndata: {"type":"a","x":1e999}\n\n', id="odd-number"),
        pytest.param(b'{"type":"a","x":"\\ud800"}', b'event: a\ndata: {"type":"a","x":"\\ud800"}\n\n', id="surrogate"),
    ],
)
def test_an_event_keeps_its_data(data: bytes, text: bytes) -> None:
    """The name is the `type`, and what is in the data cannot break the framing."""
    assert EventStreamDecoder().feed(chunk(data)) == text


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("throttlingException", "rate_limit_error"),
        ("ThrottlingException", "rate_limit_error"),
        ("modelTimeoutException", "timeout_error"),
        ("validationException", "invalid_request_error"),
        ("internalServerException", "api_error"),
        ("modelStreamErrorException", "api_error"),
        ("serviceUnavailableException", "overloaded_error"),
        ("AccessDeniedException", "permission_error"),
        ("somethingElse", "api_error"),
        ("", "api_error"),
    ],
)
def test_an_exception_is_an_error_of_anthropic(name: str, found: str) -> None:
    """Clients are told in the words that they know."""
    text = EventStreamDecoder().feed(exception(name, b'{"message":"slow down"}'))
    (event,) = Scanner().feed(text)
    error = {"type": found, "message": f"received exception {name}: slow down"}
    assert event.name == b"error"
    assert json.loads(event.data) == {"type": "error", "error": error}
    assert error_type(name) == found


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(b'{"originalMessage":"why","originalStatusCode":500}', "why", id="of-the-model"),
        pytest.param(b'{"message":7}', '{"message":7}', id="another-type"),
        pytest.param(b"two\nlines \xff", "two\nlines �", id="not-json"),
        pytest.param(b"", "", id="empty"),
    ],
)
def test_an_exception_may_say_anything(payload: bytes, reason: str) -> None:
    """Whatever its payload is, one event comes out."""
    (event,) = Scanner().feed(EventStreamDecoder().feed(exception("modelStreamErrorException", payload)))
    assert json.loads(event.data)["error"]["message"] == f"received exception modelStreamErrorException: {reason}"


def test_an_error_without_a_model_is_told_too() -> None:
    """AWS's frames of type `error` have code and message in their headers."""
    headers = header(b":message-type", b"error") + header(b":error-code", b"InternalServerException")
    text = EventStreamDecoder().feed(frame(b"", headers + header(b":error-message", b"gone")))
    assert b'"message":"received exception InternalServerException: gone"' in text


def test_what_is_not_known_is_passed_over() -> None:
    """Events of other kinds, and headers of every type, are no reason to break a stream."""
    sizes = ((0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (6, 3), (8, 8), (9, 16))
    headers = b"".join(header(b"h%d" % kind, bytes(size), kind) for kind, size in sizes)
    named = header(b":message-type", b"event")
    other = frame(b"?", headers + header(b":event-type", b"initial-response") + named)
    wanted = frame(json.dumps({"bytes": "e30="}).encode(), headers + header(b":event-type", b"chunk") + named)
    assert EventStreamDecoder().feed(other + wanted) == b"data: {}\n\n"


def prelude(length: int, headers_length: int) -> bytes:
    numbers = struct.pack(">II", length, headers_length)
    return numbers + struct.pack(">I", crc32(numbers))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


EVENT = header(b":message-type", b"event") + header(b":event-type", b"chunk")


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        pytest.param(flipped(chunk(STOP), 9), "checksum of a frame's first bytes", id="prelude"),
        pytest.param(flipped(chunk(STOP), 40), "checksum of a frame,", id="headers"),
        pytest.param(flipped(chunk(STOP), -1 + len(chunk(STOP))), "checksum of a frame,", id="checksum"),
        pytest.param(prelude(0, 0), "found a length of 0", id="no-length"),
        pytest.param(prelude(15, 0), "found a length of 15", id="too-short"),
        pytest.param(prelude(40, 25), "found a length of 40", id="headers-beyond-the-end"),
        pytest.param(prelude((1 << 20) + 1, 0), "found a length of 1048577", id="too-long"),
        pytest.param(prelude(200_000, 150_000), "found 150000", id="too-many-headers"),
        pytest.param(frame(b"", b"\x05"), "expected headers", id="name-beyond-the-end"),
        pytest.param(frame(b"", b"\x01a"), "expected headers", id="no-type"),
        pytest.param(frame(b"", b"\x01a\x0a"), "expected headers", id="unknown-type"),
        pytest.param(frame(b"", b"\x01a\x07\x00"), "expected headers", id="no-length-of-a-text"),
        pytest.param(frame(b"", b"\x01a\x07\x00\x02a"), "expected headers", id="text-beyond-the-end"),
        pytest.param(frame(b"", b""), "found None", id="no-message-type"),
        pytest.param(frame(b"", EVENT), "expected a chunk", id="no-payload"),
        pytest.param(frame(b"{}", EVENT), "expected a chunk", id="no-bytes"),
        pytest.param(frame(b'{"bytes":"?"}', EVENT), "expected a chunk", id="not-base64"),
        pytest.param(frame(b'{"bytes":' + b"[" * 100_000, EVENT), "expected a chunk", id="deep"),
        pytest.param(b"HTTP/1.1 502 Bad Gateway", "checksum", id="something-else"),
    ],
)
def test_a_broken_frame_ends_the_stream(broken: bytes, found: str) -> None:
    """One kind of error says what is wrong, and what came before it is not lost, in one read or in many."""
    stream = chunk(START) + broken
    with pytest.raises(BrokenFrame, match=found) as failure:
        EventStreamDecoder(1 << 20).feed(stream)
    assert failure.value.before == events((b"message_start", START))
    decoder, text = EventStreamDecoder(1 << 20), b""
    with pytest.raises(BrokenFrame, match=found) as failure:
        for byte in stream:
            text += decoder.feed(bytes([byte]))
    assert text + failure.value.before == events((b"message_start", START))


def test_a_stream_may_not_end_within_a_frame() -> None:
    """A connection that closes early is not taken for the end."""
    decoder = EventStreamDecoder()
    decoder.feed(WHOLE[:-1])
    assert decoder.held_bytes == len(chunk(STOP)) - 1
    with pytest.raises(BrokenFrame, match="the stream's end"):
        decoder.finish()


@given(st.binary(max_size=200), st.integers(0, len(WHOLE)))
def test_garbage_is_refused_or_passed_over(garbage: bytes, at: int) -> None:
    """Whatever comes, there are events, or there is one kind of error."""
    decoder = EventStreamDecoder()
    try:
        text = decoder.feed(WHOLE[:at] + garbage + WHOLE[at:])
        decoder.finish()
    except BrokenFrame as failure:
        text = failure.before
    assert TEXT.startswith(text)
