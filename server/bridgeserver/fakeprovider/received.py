"""What the provider was sent, and what it sent back."""

import threading


class Received:
    """One request; may be read from any thread while its answer is under way."""

    def __init__(
        self, method: str, target: str, raw_headers: list[tuple[bytes, bytes]], body: bytes, connection: int
    ) -> None:
        self.method = method
        self.target = target
        """Path and query as they were sent."""
        self.body = body
        self.connection = connection
        """Counts from 1: equal numbers mean that the connection was kept."""
        self.status = 0
        """The status that was sent; 0 before the head, and for a raw answer."""
        self.closed = threading.Event()
        """Set when the client closed before the answer had ended."""
        self.ended = threading.Event()
        """Set when nothing more will be sent, for whatever reason."""
        self._raw_headers = raw_headers
        self._sent: list[bytes] = []

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """In the order and the case that they were sent in."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._raw_headers]

    def header(self, name: str) -> str | None:
        """Return the first header of that name, in any case."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self._raw_headers if key.lower() == wanted), None)

    @property
    def response(self) -> bytes:
        """The bytes of the response body sent so far, without chunk framing; a raw answer with its head."""
        return b"".join(self._sent)

    def note_sent(self, piece: bytes) -> None:
        self._sent.append(piece)
