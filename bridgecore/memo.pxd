"""Where the very same key object was found the last time, so that it need not be hashed again.

A caller that keeps its keys asks with the same objects again and again. The address of a `str` leads to a group of
eight numbers; a byte of it, the tag, tells which may be the right one, all eight in one comparison [1]. It is the
right one if the cache holds this object under it, whose address is nobody else's as long as it does. Other keys are
left out: their hash is code of their own, which has to run.

1. S. E. Anderson, Bit Twiddling Hacks: determine if a word has a zero byte
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef extern from *:
    int trailing_zeros "__builtin_ctzll"(uint64_t word) noexcept nogil

cdef enum:
    WAYS = 8
    ENTRIES_PER_GROUP = 5       # leaves room for what falls unevenly


cdef struct Group:
    uint64_t tags               # a byte for each number
    uint32_t[8] numbers


cdef struct Memo:
    Group* groups
    uint64_t count


cdef inline bint memo_grow(Memo* memo, uint64_t entries) noexcept nogil:
    """Make room for that many entries; what was there is forgotten. Return False without memory."""
    cdef:
        uint64_t count = entries // ENTRIES_PER_GROUP + 1
        Group* groups = <Group*> calloc(count, sizeof(Group))
    if groups == NULL:
        return False
    free(memo.groups)
    memo.groups = groups
    memo.count = count
    return True


cdef inline uint64_t address_hash(PyObject* a, PyObject* b) noexcept nogil:
    """Mix the address of a key, or those of the two parts of one; *b* is NULL for a key."""
    return <size_t> a * 0x9e3779b97f4a7c15ULL + <size_t> b * 0xc2b2ae3d27d4eb4fULL


cdef inline Group* memo_group(Memo* memo, uint64_t hash) noexcept nogil:
    return &memo.groups[(hash >> 32) * memo.count >> 32]


cdef inline uint64_t memo_matches(Group* group, uint64_t hash) noexcept nogil:
    """Return a mask of the numbers that may be meant; `memo_next` takes them from it one by one."""
    cdef uint64_t differing = group.tags ^ (hash >> 24 & 0xff) * 0x0101010101010101ULL
    return (differing - 0x0101010101010101ULL) & ~differing & 0x8080808080808080ULL


cdef inline uint32_t memo_next(Group* group, uint64_t* matches) noexcept nogil:
    cdef int place = trailing_zeros(matches[0]) >> 3
    matches[0] &= matches[0] - 1
    return group.numbers[place]


cdef inline void memo_remember(Memo* memo, uint64_t hash, uint32_t number) noexcept nogil:
    """Put a number into its group: where none is, or in the place of one that chance picks."""
    cdef:
        Group* group = memo_group(memo, hash)
        int place = 0
    while place < WAYS and group.numbers[place]:
        place += 1
    if place == WAYS:
        place = hash >> 20 & (WAYS - 1)
    group.numbers[place] = number
    group.tags = group.tags & ~(<uint64_t> 0xff << 8 * place) | (hash >> 24 & 0xff) << 8 * place
