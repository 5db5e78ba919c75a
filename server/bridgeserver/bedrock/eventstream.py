"""AWS's binary event streams into server-sent events, as they come."""

# https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html#streaming-event-stream
#
#     length of the frame, length of its headers, CRC-32 of these eight bytes    4 bytes each, big endian
#     headers: length and text of a name, a type, a value                        1, n, 1, n bytes each
#     payload                                                                    what is left
#     CRC-32 of all that is before it                                            4 bytes
#
# Bytes are held until their frame is whole; of an unfinished frame nothing is looked at twice, so a stream costs what
# its bytes cost, however it is cut.

import struct
from collections.abc import Mapping
from functools import lru_cache
from zlib import crc32

import msgspec

from bridgeserver.protocols import lenient

CONTENT_TYPE = b"application/vnd.amazon.eventstream"

FRAME_BYTES = 16 << 20
"""The largest frame that is accepted; an event of Bedrock has some hundred bytes, seldom some hundred thousand."""

HEADERS_BYTES = 128 << 10
"""AWS's own limit for the headers of a frame."""

ERROR_TYPES: dict[str, str] = {
    "accessdenied": "permission_error",
    "internalserver": "api_error",
    "modelerror": "api_error",
    "modelnotready": "overloaded_error",
    "modelstreamerror": "api_error",
    "modeltimeout": "timeout_error",
    "resourcenotfound": "not_found_error",
    "servicequotaexceeded": "rate_limit_error",
    "serviceunavailable": "overloaded_error",
    "throttling": "rate_limit_error",
    "validation": "invalid_request_error",
}
"""Anthropic's types of errors by AWS's, which are written with `Exception` at their end and begin either way."""

_PRELUDE = struct.Struct(">III")
_WORD = struct.Struct(">I")
_LENGTH = struct.Struct(">H")
_OVERHEAD_BYTES = _PRELUDE.size + _WORD.size
_VALUE_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_BYTE_ARRAY, _TEXT = 6, 7


class BrokenFrame(ValueError):
    """The stream is not what AWS's format says; `before` holds the events that came before that place."""

    def __init__(self, message: str, before: bytes = b"") -> None:
        super().__init__(message)
        self.before = before


class EventStreamDecoder:
    """Turns one answer of InvokeModelWithResponseStream into the text of an event stream."""

    def __init__(self, frame_bytes: int = FRAME_BYTES) -> None:
        self._limit = frame_bytes
        self._held = bytearray()
        self._wanted = _PRELUDE.size

    @property
    def held_bytes(self) -> int:
        """How much of an unfinished frame is in memory."""
        return len(self._held)

    def feed(self, chunk: bytes) -> bytes:
        """Return the events that *chunk* completes; raise BrokenFrame, after which the stream is of no more use."""
        self._held += chunk
        if len(self._held) < self._wanted:
            return b""
        data = bytes(self._held)
        events: list[bytes] = []
        at = 0
        try:
            while self._has_frame(data, at):
                events.append(_event(data[at : at + self._wanted]))
                at += self._wanted
                self._wanted = _PRELUDE.size
        except BrokenFrame as failure:
            failure.before = b"".join(events)
            raise
        del self._held[:at]
        return b"".join(events)

    def finish(self) -> None:
        """Raise BrokenFrame if the stream ended within a frame."""
        if self._held:
            raise BrokenFrame(f"expected a whole frame, found the stream's end after {len(self._held)} bytes of one")

    def _has_frame(self, data: bytes, at: int) -> bool:
        """Whether a whole frame begins at *at*; sets how many bytes it has, as far as that is known."""
        if len(data) - at < _PRELUDE.size:
            return False
        length, headers_length, checksum = _PRELUDE.unpack_from(data, at)
        if crc32(data[at : at + 8]) != checksum:
            raise BrokenFrame("expected the checksum of a frame's first bytes, found another")
        if length > self._limit or length < _OVERHEAD_BYTES + headers_length:
            raise BrokenFrame(f"expected a frame of at most {self._limit} bytes, found a length of {length}")
        if headers_length > HEADERS_BYTES:
            raise BrokenFrame(f"expected at most {HEADERS_BYTES} bytes of headers, found {headers_length}")
        self._wanted = length
        return len(data) - at >= self._wanted


def error_type(exception: str) -> str:
    """Return Anthropic's type of an error that AWS names *exception*."""
    return ERROR_TYPES.get(exception.removesuffix("Exception").lower(), "api_error")


class _Chunk(msgspec.Struct):
    data: bytes = msgspec.field(name="bytes")


class _Named(msgspec.Struct):
    type: str


class _Refusal(msgspec.Struct):
    message: str = ""
    original_message: str = msgspec.field(name="originalMessage", default="")


_CHUNK = msgspec.json.Decoder(_Chunk)
_NAMED = msgspec.json.Decoder(_Named)
_REFUSAL = msgspec.json.Decoder(_Refusal)


def _event(frame: bytes) -> bytes:
    """Return what a whole frame says as an event; nothing for a kind that is not known."""
    if crc32(frame[: -_WORD.size]) != _WORD.unpack_from(frame, len(frame) - _WORD.size)[0]:
        raise BrokenFrame("expected the checksum of a frame, found another")
    headers_end = _PRELUDE.size + _PRELUDE.unpack_from(frame)[1]
    headers = _headers(frame[_PRELUDE.size : headers_end])
    payload = frame[headers_end : -_WORD.size]
    match headers.get(b":message-type"):
        case b"event":
            return _chunk(payload) if headers.get(b":event-type") == b"chunk" else b""
        case b"exception":
            return _error(_text(headers, b":exception-type"), _reason(payload))
        case b"error":
            return _error(_text(headers, b":error-code"), _text(headers, b":error-message"))
        case found:
            raise BrokenFrame(f"expected a frame with an event, an exception or an error, found {found!r}")


@lru_cache(maxsize=16)  # all chunks have the same
def _headers(data: bytes) -> Mapping[bytes, bytes]:
    """Return the headers that are text."""
    headers: dict[bytes, bytes] = {}
    at, end = 0, len(data)
    try:
        while at < end:
            name_end = at + 1 + data[at]
            name, kind = data[at + 1 : name_end], data[name_end]
            start = name_end + 1
            if kind in {_TEXT, _BYTE_ARRAY}:
                start += _LENGTH.size
                at = start + _LENGTH.unpack_from(data, start - _LENGTH.size)[0]
            else:
                at = start + _VALUE_BYTES[kind]
            if kind == _TEXT:
                headers[name] = data[start:at]
    except (LookupError, ValueError, struct.error) as failure:
        raise BrokenFrame("expected headers of a frame, found something else") from failure
    if at != end:
        raise BrokenFrame("expected headers that end where the frame says, found longer ones")
    return headers


def _chunk(payload: bytes) -> bytes:
    try:
        data = _CHUNK.decode(payload).data
    except (ValueError, RecursionError) as failure:
        raise BrokenFrame("expected a chunk with `bytes` in base64, found something else") from failure
    # An end of a line is white space of JSON, and would end the field.
    lines = b"\ndata: ".join(data.splitlines()) if b"\n" in data or b"\r" in data else data
    return b"%bdata: %b\n\n" % (_name_line(data), lines)


def _name_line(data: bytes) -> bytes:
    """Return the line that names the event, or nothing where its data have no name that a line can hold."""
    try:
        name = _NAMED.decode(data).type
    except (ValueError, RecursionError):  # a lone surrogate somewhere, or no name
        name = lenient.text(lenient.mapping(lenient.read(data)).get("type"))
    return b"event: %b\n" % name.encode() if name and name.isprintable() else b""


def _error(exception: str, reason: str) -> bytes:
    error = {"type": error_type(exception), "message": f"received exception {exception}: {reason}"}
    return b"event: error\ndata: %b\n\n" % msgspec.json.encode({"type": "error", "error": error})


def _reason(payload: bytes) -> str:
    try:
        refusal = _REFUSAL.decode(payload)
    except (ValueError, RecursionError):
        return payload.decode("utf-8", "replace")
    return refusal.message or refusal.original_message


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("utf-8", "replace")
