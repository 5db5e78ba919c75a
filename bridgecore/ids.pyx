"""Ids that sort by the time of their making."""

import os

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

cdef enum:
    TAIL_BYTES = 10
    # So many ids are made of one system call.
    TAILS = 128

cdef bytes _random = b""
cdef Py_ssize_t _used = 0

cdef const char* DIGITS = b"0123456789abcdef"


def _forget():
    """Let a child process not hand out what its parent hands out too."""
    global _random, _used
    _random = b""
    _used = 0


os.register_at_fork(after_in_child=_forget)


def uuid7():
    """Return a random id that sorts by the millisecond of its making (UUIDv7, RFC 9562 section 5.7)."""
    global _random, _used
    cdef:
        timespec now
        uint64_t milliseconds
        unsigned char[16] value
        char[36] text
        Py_ssize_t i
        Py_ssize_t at = 0
    if _used >= len(_random):
        _random = os.urandom(TAIL_BYTES * TAILS)
        _used = 0
    clock_gettime(CLOCK_REALTIME, &now)
    milliseconds = <uint64_t> now.tv_sec * 1000 + now.tv_nsec // 1_000_000
    for i in range(6):
        value[i] = (milliseconds >> (40 - 8 * i)) & 0xFF
    memcpy(&value[6], PyBytes_AS_STRING(_random) + _used, TAIL_BYTES)
    _used += TAIL_BYTES
    value[6] = 0x70 | (value[6] & 0x0F)
    value[8] = 0x80 | (value[8] & 0x3F)
    for i in range(16):
        if i == 4 or i == 6 or i == 8 or i == 10:
            text[at] = b"-"
            at += 1
        text[at] = DIGITS[value[i] >> 4]
        text[at + 1] = DIGITS[value[i] & 15]
        at += 2
    return PyUnicode_DecodeASCII(text, 36, NULL)
