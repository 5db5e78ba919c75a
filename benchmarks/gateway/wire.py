"""The least that a client has to know of HTTP/1.1 to tell an answer's body and its end."""

import re

HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")


class BrokenAnswer(Exception):
    """What came is no answer that this client understands."""


class Answer:
    """One answer that arrives piece by piece; nothing may follow it."""

    __slots__ = ("_before", "_is_chunked", "_missing", "body_bytes", "is_whole", "status")

    def __init__(self) -> None:
        self.status = 0
        self.is_whole = False
        self.body_bytes = 0
        self._before: bytes = b""
        self._is_chunked = False
        self._missing = 0

    def feed(self, data: bytes) -> bytes:
        """Return what the data holds of the body; `is_whole` tells whether it was its end."""
        if not self.status:
            data = self._before + data
            end = data.find(HEAD_END)
            if end < 0:
                self._before = data
                return b""
            self._before = b""
            self._read_head(data[:end])
            data = data[end + 4 :]
        if self._is_chunked:
            return self._feed_chunks(data)
        self._missing -= len(data)
        if self._missing <= 0:
            self._end(-self._missing)
        self.body_bytes += len(data)
        return data

    def _read_head(self, head: bytes) -> None:
        try:
            self.status = int(head[9:12])
        except ValueError:
            raise BrokenAnswer(f"expected a status line, found {head[:60]!r}") from None
        if found := _LENGTH.search(head):
            self._missing = int(found[1])
        elif _CHUNKED.search(head):
            self._is_chunked = True
        else:
            raise BrokenAnswer(f"expected a length or chunks, found {head!r}")

    def _feed_chunks(self, data: bytes) -> bytes:
        """Take chunks apart; `_missing` counts what is to come of one, with the line break behind it."""
        payload: list[bytes] = []
        data = self._before + data
        self._before = b""
        at = 0
        while at < len(data):
            if self._missing:
                taken = min(self._missing, len(data) - at)
                payload.append(data[at : at + min(taken, max(self._missing - 2, 0))])
                self._missing -= taken
                at += taken
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._before = data[at:]
                break
            size = int(data[at:end], 16)
            if size == 0:
                if not data.startswith(b"\r\n", end + 2):  # trailers are not expected, half of an end is
                    self._before = data[at:]
                    break
                self._end(len(data) - end - 4)
                break
            at = end + 2
            self._missing = size + 2
        body = b"".join(payload)
        self.body_bytes += len(body)
        return body

    def _end(self, surplus: int) -> None:
        if surplus:
            raise BrokenAnswer(f"expected the end of an answer, found {surplus} bytes more")
        self.is_whole = True


def request(path: str, fields: dict[str, str], body: bytes, *, method: str = "POST") -> bytes:
    """Return a whole request."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body
