"""What will be written to a connection."""

import msgspec

from bridgeserver.fakeprovider.script import Script


class Plan(msgspec.Struct, frozen=True):
    """An answer as it goes over the wire, and the script that says when."""

    script: Script
    status: int
    head: bytes
    """Empty for a raw answer, which brings its own."""
    pieces: tuple[bytes, ...]
    is_chunked: bool
    is_stream: bool
    closes: bool
    """Whether the connection ends with the answer."""
