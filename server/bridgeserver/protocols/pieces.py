"""Text that arrives in pieces, in bounded memory."""

from io import StringIO

from bridgeserver.records import CONTENT_LIMIT

OPEN_LIMIT = 128
"""Unfinished blocks or calls that one response may have; OpenAI allows 128 tools."""

KEPT_LIMIT = CONTENT_LIMIT + 1
"""Characters kept of one text: one more than can be recorded, so that the recorder sees the cut."""


class Pieces:
    """A growing text; what is beyond the limit is dropped."""

    __slots__ = ("_left", "_text")

    def __init__(self) -> None:
        self._text = StringIO()
        self._left = KEPT_LIMIT

    def add(self, piece: str) -> None:
        """Append *piece*; O(len(piece))."""
        if self._left > 0:
            self._text.write(piece[: self._left])
            self._left -= len(piece)

    def __str__(self) -> str:
        return self._text.getvalue()
