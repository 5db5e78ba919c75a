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
    try:
        if encoding in {"gzip", "x-gzip"}:
            unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            data, is_whole = unzip.decompress(body, max_bytes + 1), unzip.eof
        elif encoding == "zstd":
            unpack = zstd.ZstdDecompressor()
            data, is_whole = unpack.decompress(body, max_bytes + 1), unpack.eof
        else:
            raise UnsupportedEncoding(f"content-encoding {encoding!r} is not read here; expected gzip or zstd, or none")
    except (zlib.error, zstd.ZstdError) as exc:
        raise BadRequest(f"the body is not {encoding}: {exc}") from exc
    if len(data) > max_bytes:
        raise BodyTooLarge(f"the decoded body has more than {max_bytes} bytes")
    if not is_whole:
        raise BadRequest(f"the body ends before its {encoding} stream does")
    return data
