"""Answers of InvokeModel as Messages clients expect them: streams as server-sent events, errors in their shape."""

import msgspec

from bridgecore import by_name
from bridgeserver.bedrock.eventstream import CONTENT_TYPE, BrokenFrame, EventStreamDecoder, error_type
from bridgeserver.errors import BadResponse
from bridgeserver.headers import Pairs
from bridgeserver.protocols import lenient
from bridgeserver.protocols.messages import error_name

ERROR_BYTES = 64 << 10
"""What is read of an error; a longer one is relayed as it came, which no client minds."""


def translation_of(status: int, fields: Pairs) -> "StreamAnswer | ErrorAnswer | None":
    """Return how the answer with that head becomes one of Messages, None where it is one."""
    headers = by_name(fields)
    if status >= 300:
        return ErrorAnswer(status, fields, headers.get(b"x-amzn-errortype", b"").decode("latin-1"))
    return StreamAnswer(fields) if headers.get(b"content-type", b"").startswith(CONTENT_TYPE) else None


class StreamAnswer:
    """A binary event stream as server-sent events."""

    def __init__(self, fields: Pairs) -> None:
        self.fields = [*_without(fields, b"content-type"), (b"content-type", b"text/event-stream; charset=utf-8")]
        self.failure: BadResponse | None = None
        self._decoder = EventStreamDecoder()

    def feed(self, chunk: bytes, is_last: bool) -> bytes:
        """Return the events that *chunk* completes, as far as they can be read."""
        events = b""
        try:
            events = self._decoder.feed(chunk)
            if is_last:
                self._decoder.finish()
        except BrokenFrame as exc:
            self.failure = BadResponse(f"the provider's stream broke off: {exc}")
            return events + exc.before
        return events


class ErrorAnswer:
    """An error of AWS as one of Anthropic, with the status and the message that it has."""

    def __init__(self, status: int, fields: Pairs, name: str) -> None:
        self.fields = _without(fields, b"")
        self.failure: BadResponse | None = None
        self._status = status
        self._name = name.partition(":")[0]
        self._body = b""
        self._is_too_long = False

    def feed(self, chunk: bytes, is_last: bool) -> bytes:
        """Return nothing but at the end, when the whole error is here."""
        if self._is_too_long:
            return chunk
        self._body += chunk
        if len(self._body) > ERROR_BYTES:
            self._is_too_long = True
            return self._body
        return self._translated() if is_last else b""

    def _translated(self) -> bytes:
        members = lenient.mapping(lenient.read(self._body))
        if "error" in members:
            return self._body  # it is one of Anthropic already
        message = lenient.text(members.get("message") or members.get("Message"))
        name = error_type(self._name) if self._name else error_name(self._status)
        error = {"type": name, "message": message or self._body.decode("utf-8", "replace") or self._name}
        return msgspec.json.encode({"type": "error", "error": error})


def _without(fields: Pairs, name: bytes) -> Pairs:
    """Return the fields without that one, and without the length, which will be another."""
    return [field for field in fields if field[0] not in {name, b"content-length"}]
