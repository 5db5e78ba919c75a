"""Encoded request bodies: read for their facts, relayed as they are."""

import sys
import zlib

from bridgeserver.errors import BadRequest, BodyTooLarge, UnsupportedEncoding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def decode(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return *body* without its `Content-Encoding`, which may be gzip or zstd.

    Raises UnsupportedEncoding for others, BadRequest for bytes that are not of it, and BodyTooLarge for more
    than *max_bytes*, of which never more are made.
    """
    if encoding not in {"gzip", "x-gzip", "zstd"}:
        raise UnsupportedEncoding(f"content-encoding {encoding!r} is not read here; expected gzip or zstd, or none")
    data = bytearray()
    rest = body
    while True:  # both formats allow several streams, one after the other
        unpack = zstd.ZstdDecompressor() if encoding == "zstd" else zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            data += unpack.decompress(rest, max_bytes + 1 - len(data))
        except (zlib.error, zstd.ZstdError) as exc:
            raise BadRequest(f"the body is not {encoding}: {exc}") from exc
        if len(data) > max_bytes:
            raise BodyTooLarge(f"the decoded body has more than {max_bytes} bytes")
        if not unpack.eof:
            raise BadRequest(f"the body ends before its {encoding} stream does")
        rest = unpack.unused_data
        if not rest:
            break
    return bytes(data)
