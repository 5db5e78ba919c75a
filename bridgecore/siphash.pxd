"""SipHash-c-d [1], inlined where it is used.

A fast hash under a secret key: without the key nobody can find inputs that collide. The state lives in registers;
the message is read eight bytes at a time, and a tail is read as the end of the last eight bytes where there are
as many, so that short keys cost no loop over bytes.

1. J.-P. Aumasson, D. J. Bernstein, SipHash: a fast short-input PRF, INDOCRYPT 2012
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "siphash.pxd loads words as a little-endian machine does"
    #endif
    """


cdef struct SipKey:
    uint64_t k0
    uint64_t k1


cdef struct SipState:
    uint64_t v0
    uint64_t v1
    uint64_t v2
    uint64_t v3


cdef inline uint64_t rotate(uint64_t word, int bits) noexcept nogil:
    return word << bits | word >> (64 - bits)


cdef inline uint64_t load(const unsigned char* data) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, data, 8)
    return word


cdef inline uint64_t load_tail(const unsigned char* data, size_t size, size_t rest) noexcept nogil:
    """Return the last *rest* bytes (0 to 7) of *size*, as the low bytes of a word."""
    cdef uint64_t word = 0
    cdef size_t i
    if rest == 0:
        return 0
    if size >= 8:
        return load(data + size - 8) >> 8 * (8 - rest)
    for i in range(rest):
        word |= <uint64_t> data[i] << 8 * i
    return word


cdef inline void sip_round(SipState* s) noexcept nogil:
    s.v0 += s.v1
    s.v2 += s.v3
    s.v1 = rotate(s.v1, 13) ^ s.v0
    s.v3 = rotate(s.v3, 16) ^ s.v2
    s.v0 = rotate(s.v0, 32)
    s.v2 += s.v1
    s.v0 += s.v3
    s.v1 = rotate(s.v1, 17) ^ s.v2
    s.v3 = rotate(s.v3, 21) ^ s.v0
    s.v2 = rotate(s.v2, 32)


cdef inline void sip_begin(SipState* s, SipKey key) noexcept nogil:
    # The constants spell "somepseudorandomlygeneratedbytes".
    s.v0 = key.k0 ^ 0x736f6d6570736575ULL
    s.v1 = key.k1 ^ 0x646f72616e646f6dULL
    s.v2 = key.k0 ^ 0x6c7967656e657261ULL
    s.v3 = key.k1 ^ 0x7465646279746573ULL


cdef inline void sip_word(SipState* s, uint64_t word) noexcept nogil:
    s.v3 ^= word
    sip_round(s)
    s.v0 ^= word


cdef inline void sip_words(SipState* s, const unsigned char* data, size_t size) noexcept nogil:
    """Take the whole words of *data*."""
    cdef const unsigned char* end = data + (size & ~<size_t> 7)
    while data != end:
        sip_word(s, load(data))
        data += 8


cdef inline uint64_t sip_end(SipState* s) noexcept nogil:
    s.v2 ^= 0xff
    sip_round(s)
    sip_round(s)
    sip_round(s)
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3


cdef inline uint64_t sip_bytes(SipKey key, const unsigned char* data, size_t size) noexcept nogil:
    """Return SipHash-1-3 of *data*."""
    cdef SipState s
    sip_begin(&s, key)
    sip_words(&s, data, size)
    sip_word(&s, <uint64_t> size << 56 | load_tail(data, size, size & 7))
    return sip_end(&s)


cdef inline uint64_t sip_pair(
    SipKey key, const unsigned char* a, size_t a_size, const unsigned char* b, size_t b_size
) noexcept nogil:
    """Return SipHash-1-3 of a message that two other parts cannot make.

    It is the length of *a* in 8 bytes, *a* padded with zeros to whole words, then *b*.
    """
    cdef SipState s
    cdef size_t size = 8 + ((a_size + 7) & ~<size_t> 7) + b_size
    sip_begin(&s, key)
    sip_word(&s, a_size)
    sip_words(&s, a, a_size)
    if a_size & 7:
        sip_word(&s, load_tail(a, a_size, a_size & 7))
    sip_words(&s, b, b_size)
    sip_word(&s, <uint64_t> size << 56 | load_tail(b, b_size, b_size & 7))
    return sip_end(&s)
