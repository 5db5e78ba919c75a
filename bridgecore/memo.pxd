"""Where the very same key object was found the last time, so that it need not be hashed again.

A caller that keeps its keys asks with the same objects again and again. The address of a `str` leads to a few numbers,
the latest first; the right one is that under which the cache holds this object, whose address is nobody else's as
long as it does. Other keys are left out: their hash is code of their own, which has to run.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef enum:
    WAYS = 8
    PLACES_PER_ENTRY = 2


cdef struct Memo:
    uint32_t* numbers
    uint64_t groups


cdef inline bint memo_grow(Memo* memo, uint64_t entries) noexcept nogil:
    """Make room for that many entries; what was there is forgotten. Return False without memory."""
    cdef:
        uint64_t groups = entries * PLACES_PER_ENTRY // WAYS + 1
        uint32_t* numbers = <uint32_t*> calloc(groups * WAYS, sizeof(uint32_t))
    if numbers == NULL:
        return False
    free(memo.numbers)
    memo.numbers = numbers
    memo.groups = groups
    return True


cdef inline uint32_t* memo_of(Memo* memo, PyObject* a, PyObject* b) noexcept nogil:
    """Return the group of numbers for a key, or for the two parts of one; *b* is NULL for a key."""
    cdef uint64_t mixed = <size_t> a * 0x9e3779b97f4a7c15ULL + <size_t> b * 0xc2b2ae3d27d4eb4fULL
    return memo.numbers + ((mixed >> 32) * memo.groups >> 32) * WAYS


cdef inline void memo_remember(uint32_t* group, uint32_t number) noexcept nogil:
    """Put a number first in its group, in the place of the last."""
    cdef int i = WAYS - 1
    while i:
        group[i] = group[i - 1]
        i -= 1
    group[0] = number
