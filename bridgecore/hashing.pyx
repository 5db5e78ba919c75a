"""Keyed hashes for tables, and for names that leave the process."""

from libc.stdint cimport uint64_t

from bridgecore.siphash cimport (
    SipKey, SipState, load, load_tail, sip_begin, sip_bytes, sip_pair, sip_round
)

KEY_BYTES = 16


def siphash13(bytes data not None, bytes key not None):
    """Return SipHash-1-3 of *data*, 64 bits, under a key of 16 bytes: fast, for tables that others can fill.

    Raises ValueError for a key of another length.
    """
    return sip_bytes(_sip_key(key), data, len(data))


def hash2(a, b, bytes key not None):
    """Return SipHash-1-3 of two parts, `str` (as UTF-8) or bytes; `("a|b", "c")` and `("a", "b|c")` differ.

    The message is the length of *a* in 8 bytes, little-endian, *a* padded with zeros to a multiple of 8, then *b*.
    The same in every process and on every machine. Raises TypeError for other parts, ValueError for the key.
    """
    cdef:
        bytes first = _part(a)
        bytes second = _part(b)
    return sip_pair(_sip_key(key), first, len(first), second, len(second))


def pseudonym(str text not None, bytes key not None):
    """Return 32 hexadecimal digits that stand for *text* where its name must not be seen, such as in logs.

    The same text has the same pseudonym under the same key of 16 bytes, in every process. SipHash-2-4 with 128
    bits: without the key it can neither be undone nor be guessed at. Raises ValueError for the key.
    """
    cdef:
        bytes data = text.encode("utf-8", "surrogatepass")
        SipKey sip_key = _sip_key(key)
        uint64_t[2] digest
    _siphash24_128(sip_key, data, len(data), digest)
    return (<unsigned char*> digest)[:16].hex()


cdef void _siphash24_128(SipKey key, const unsigned char* data, size_t size, uint64_t* digest) noexcept nogil:
    cdef:
        SipState s
        size_t i
    sip_begin(&s, key)
    s.v1 ^= 0xee
    for i in range(size >> 3):
        _double_round(&s, load(data + 8 * i))
    _double_round(&s, <uint64_t> size << 56 | load_tail(data, size, size & 7))
    s.v2 ^= 0xee
    _finish(&s)
    digest[0] = s.v0 ^ s.v1 ^ s.v2 ^ s.v3
    s.v1 ^= 0xdd
    _finish(&s)
    digest[1] = s.v0 ^ s.v1 ^ s.v2 ^ s.v3


cdef inline void _double_round(SipState* s, uint64_t word) noexcept nogil:
    s.v3 ^= word
    sip_round(s)
    sip_round(s)
    s.v0 ^= word


cdef inline void _finish(SipState* s) noexcept nogil:
    cdef int _i
    for _i in range(4):
        sip_round(s)


cdef SipKey _sip_key(bytes key):
    cdef SipKey sip_key
    if len(key) != KEY_BYTES:
        raise ValueError(f"key must be {KEY_BYTES} bytes, got {len(key)}")
    sip_key.k0 = load(key)
    sip_key.k1 = load(<const unsigned char*> key + 8)
    return sip_key


cdef bytes _part(part):
    if isinstance(part, str):
        return part.encode("utf-8", "surrogatepass")
    if isinstance(part, bytes):
        return part
    raise TypeError(f"a part must be str or bytes, got {type(part).__name__}")
