"""From a hash to the numbers of the nodes that have it: open addressing with linear probing.

A cell holds the hash's upper half and a number, which is not 0. The upper half as a fraction of the size is the place
where its search begins, so the size need not be a power of two, and cells move without a look at their nodes. Deleting
moves what follows back into the hole: nothing is left behind that would slow later searches.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef enum:
    FIRST_CELLS = 64


cdef struct Table:
    uint64_t* cells
    uint64_t size
    uint64_t count


cdef inline bint table_init(Table* table, uint64_t size) noexcept nogil:
    table.cells = <uint64_t*> calloc(size, sizeof(uint64_t))
    table.size = size
    table.count = 0
    return table.cells != NULL


cdef inline void table_free(Table* table) noexcept nogil:
    free(table.cells)
    table.cells = NULL


cdef inline uint64_t cell_home(Table* table, uint64_t cell) noexcept nogil:
    return (cell >> 32) * table.size >> 32


cdef inline uint64_t cell_after(Table* table, uint64_t place) noexcept nogil:
    return place + 1 if place + 1 != table.size else 0


cdef inline void table_add(Table* table, uint64_t hash, uint32_t number) noexcept nogil:
    """Add a number; there must be room (`table_reserve`)."""
    cdef uint64_t place = cell_home(table, hash)
    while table.cells[place]:
        place = cell_after(table, place)
    table.cells[place] = (hash >> 32 << 32) | number
    table.count += 1


cdef inline uint64_t table_place(Table* table, uint64_t hash, uint32_t number) noexcept nogil:
    """Return the place of a number that is there."""
    cdef uint64_t place = cell_home(table, hash)
    while <uint32_t> table.cells[place] != number:
        place = cell_after(table, place)
    return place


cdef inline void table_remove(Table* table, uint64_t hash, uint32_t number) noexcept nogil:
    cdef:
        uint64_t hole = table_place(table, hash, number)
        uint64_t place = hole
        uint64_t home
    while True:
        place = cell_after(table, place)
        if not table.cells[place]:
            break
        home = cell_home(table, table.cells[place])
        # What began its search after the hole, and did not wrap around to it, stays.
        if (hole < home <= place) if hole <= place else (hole < home or home <= place):
            continue
        table.cells[hole] = table.cells[place]
        hole = place
    table.cells[hole] = 0
    table.count -= 1


cdef inline bint table_reserve(Table* table, uint64_t count_max) noexcept nogil:
    """Make room for one more; return False without memory. It never grows beyond what
    *count_max* numbers need, and goes there at once when that is near.
    """
    cdef:
        Table grown
        uint64_t i
        uint64_t place
        uint64_t size = table.size
    if (table.count + 1) * 10 <= size * 7:
        return True
    size *= 2
    if table.count < count_max < 2 * (size // 10 * 7):
        size = count_max * 10 // 7 + 2
    if not table_init(&grown, size):
        return False
    for i in range(table.size):
        if table.cells[i]:
            place = cell_home(&grown, table.cells[i])
            while grown.cells[place]:
                place = cell_after(&grown, place)
            grown.cells[place] = table.cells[i]
    grown.count = table.count
    table_free(table)
    table[0] = grown
    return True
