"""How often a key was used lately: a count-min sketch of 4-bit counters.

Two counters share a byte and 128 a block of 64 bytes, so that the four counters of a key cost one cache
line. All counters are halved when as many uses were counted as twenty times the entries [1]: what was popular once
fades. The estimate is never below the true count since the last halving, up to 15, and seldom above. Between two
halvings, an *era*, no counter falls: once the four of a key are full, its uses need not be counted.

A block is chosen by the hash's upper half as a fraction of the number of blocks. So when the blocks double, the keys
of block i go to the blocks 2i and 2i + 1, and two copies of it keep every estimate.

1. G. Einziger, R. Friedman, B. Manes, TinyLFU: A Highly Efficient Cache Admission Policy, ACM TOS 13(4), 2017
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cdef extern from *:
    int popcount "__builtin_popcountll"(uint64_t word) noexcept nogil
    bint unlikely(bint condition) noexcept nogil

cdef enum:
    FIRST_BLOCKS = 32
    BLOCK_WORDS = 8
    COUNTER_MAX = 15
    WORDS_PER_ENTRY = 2
    USES_PER_ENTRY = 20
    ERAS = 255


cdef struct Sketch:
    uint64_t* words
    uint64_t blocks
    uint64_t additions      # uses since the last halving that raised a counter
    uint8_t era             # from 1 to ERAS, and around


cdef inline bint sketch_init(Sketch* sketch, uint64_t entries_max) noexcept nogil:
    """Begin small, with a number of blocks that doubling makes just right for *entries_max*."""
    sketch.blocks = max(entries_max // (BLOCK_WORDS // WORDS_PER_ENTRY) + 1, <uint64_t> FIRST_BLOCKS)
    while sketch.blocks >= 2 * FIRST_BLOCKS:
        sketch.blocks = (sketch.blocks + 1) // 2
    sketch.additions = 0
    sketch.era = 1
    sketch.words = <uint64_t*> calloc(sketch.blocks * BLOCK_WORDS, sizeof(uint64_t))
    return sketch.words != NULL


cdef inline void sketch_free(Sketch* sketch) noexcept nogil:
    free(sketch.words)
    sketch.words = NULL


cdef inline uint64_t* block_of(Sketch* sketch, uint64_t hash) noexcept nogil:
    return sketch.words + ((hash >> 32) * sketch.blocks >> 32) * BLOCK_WORDS


cdef inline uint32_t sketch_frequency(Sketch* sketch, uint64_t hash) noexcept nogil:
    """Return how often the key was used, 0 to 15."""
    cdef:
        unsigned char* counters = <unsigned char*> block_of(sketch, hash)
        uint32_t least = COUNTER_MAX
        uint32_t count
        int row
    for row in range(4):
        count = counters[16 * row + (hash & 15)] >> 4 * (hash >> 4 & 1) & 15
        least = min(least, count)
        hash >>= 5
    return least


cdef inline bint sketch_use(Sketch* sketch, uint64_t hash) noexcept nogil:
    """Count a use; return whether a counter rose: then `sketch_age` has to be asked, else all four are full."""
    cdef:
        unsigned char* counters = <unsigned char*> block_of(sketch, hash)
        unsigned char* pair
        uint32_t bits = <uint32_t> hash
        uint32_t both
        uint32_t one
        uint32_t raised = 0
        int row
    for row in range(4):
        pair = &counters[16 * row + (bits & 15)]
        both = pair[0]
        one = 1 + 15 * (bits >> 4 & 1)      # of the low or the high half
        one = one if ~both & one * COUNTER_MAX else <uint32_t> 0
        pair[0] = <unsigned char> (both + one)
        raised |= one
        bits >>= 5
    sketch.additions += raised != 0
    return raised != 0


cdef inline bint sketch_age(Sketch* sketch, uint64_t entries) noexcept nogil:
    """Halve all counters if enough uses were counted for the number of entries; return whether the eras begin anew."""
    # A sketch that was made for many more entries is not gone through for a few uses.
    if unlikely(sketch.additions >= USES_PER_ENTRY * max(entries, sketch.blocks // 2)):
        sketch_halve(sketch)
        return sketch.era == 1
    return False


cdef inline void sketch_halve(Sketch* sketch) noexcept nogil:
    cdef:
        uint64_t odd = 0
        uint64_t i
        uint64_t word
    for i in range(sketch.blocks * BLOCK_WORDS):
        word = sketch.words[i]
        odd += popcount(word & 0x1111111111111111ULL)
        sketch.words[i] = word >> 1 & 0x7777777777777777ULL
    sketch.era = sketch.era % ERAS + 1
    # Each odd counter lost half a use, and four counters stand for one use.
    sketch.additions = (sketch.additions - min(sketch.additions, odd // 4)) // 2


cdef inline void sketch_grow(Sketch* sketch, uint64_t entries) noexcept nogil:
    """Double the sketch when it has less than two words an entry; without the memory for it, it stays as it is."""
    cdef:
        uint64_t* words
        uint64_t i
    if entries * WORDS_PER_ENTRY <= sketch.blocks * BLOCK_WORDS:
        return
    words = <uint64_t*> calloc(2 * sketch.blocks * BLOCK_WORDS, sizeof(uint64_t))
    if words == NULL:
        return
    for i in range(sketch.blocks):
        memcpy(words + 2 * i * BLOCK_WORDS, sketch.words + i * BLOCK_WORDS, 64)
        memcpy(words + (2 * i + 1) * BLOCK_WORDS, sketch.words + i * BLOCK_WORDS, 64)
    free(sketch.words)
    sketch.words = words
    sketch.blocks *= 2


cdef inline void sketch_fit(Sketch* sketch, uint64_t entries_max) noexcept nogil:
    """Begin anew if it is much larger than *entries_max* will ever need; without memory, it stays as it is."""
    cdef Sketch fresh
    if sketch.blocks <= FIRST_BLOCKS or sketch.blocks <= entries_max or not sketch_init(&fresh, entries_max):
        return
    sketch_free(sketch)
    sketch[0] = fresh
