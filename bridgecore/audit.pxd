"""Whether the structures of a cache keep their rules. Reads everything; for tests, and for those who want to know."""

from libc.stdint cimport uint32_t, uint64_t

from bridgecore.entries cimport FREE, LEAVING, LIVE, RETIRED, Entries
from bridgecore.policy cimport LISTS, PINNED, policy_cost, policy_count
from bridgecore.sketch cimport BLOCK_WORDS, COUNTER_MAX, WORDS_PER_ENTRY, sketch_frequency
from bridgecore.table cimport cell_after, cell_home
from bridgecore.wheel cimport HEADS, HEADS_AT, timer_at


cdef inline int audit_lists(Entries* entries) except -1:
    cdef:
        uint32_t queue
        uint32_t number
        uint32_t following
        uint64_t count
        uint64_t cost
    for queue in range(<uint32_t> LISTS):
        count = 0
        cost = 0
        number = queue
        while True:
            following = entries.nodes[number].next
            assert entries.nodes[following].prev == number, f"list {queue} is broken at entry {number}"
            number = following
            if number == queue:
                break
            assert entries.nodes[number].queue == queue, f"entry {number} is in list {queue} and says otherwise"
            assert entries.nodes[number].state == LIVE, f"entry {number} is in list {queue} and not live"
            assert (entries.nodes[number].cost == 0) == (queue == PINNED), f"entry {number} has a cost for another list"
            count += 1
            cost += entries.nodes[number].cost
        assert count == entries.policy.counts[queue], f"list {queue} has {count}, not {entries.policy.counts[queue]}"
        assert cost == entries.policy.costs[queue], f"list {queue} costs {cost}, not {entries.policy.costs[queue]}"
    assert policy_cost(&entries.policy) <= entries.policy.max_cost, "the sum of costs is above the maximum"
    assert 1 <= entries.policy.window_max <= entries.policy.max_cost, "the window has no sensible size"
    count = policy_count(&entries.policy)
    assert count * WORDS_PER_ENTRY <= 2 * entries.sketch.blocks * BLOCK_WORDS, "the sketch has not grown with the cache"
    return 0


cdef inline int audit_sketch(Entries* entries) except -1:
    cdef uint32_t number
    for number in range(<uint32_t> LISTS, entries.capacity):
        if entries.nodes[number].state == LIVE and entries.nodes[number].full_in == entries.sketch.era:
            assert sketch_frequency(&entries.sketch, entries.nodes[number].hash) == COUNTER_MAX, (
                f"the uses of entry {number} are not counted, though its counters are not full"
            )
    return 0


cdef inline int audit_entries(Entries* entries) except -1:
    cdef:
        uint32_t number
        uint64_t[4] states
        uint64_t leases = 0
        uint64_t count = 0
    states[:] = [0, 0, 0, 0]
    for number in range(<uint32_t> LISTS, entries.capacity):
        states[entries.nodes[number].state] += 1
        if entries.nodes[number].state != FREE:
            leases += entries.nodes[number].leases
        if entries.nodes[number].state == LEAVING:
            assert entries.nodes[number].leases == 0, f"entry {number} leaves and is leased"
        if entries.nodes[number].state == RETIRED:
            assert entries.nodes[number].leases != 0, f"entry {number} is retired and has no lease"
    number = entries.free
    while number:
        count += 1
        number = entries.nodes[number].next
    assert count == states[FREE], f"{states[FREE]} entries are free and {count} in the list of free ones"
    count = 0
    number = entries.leaving
    while number:
        count += 1
        number = entries.nodes[number].next
    assert count == states[LEAVING], f"{states[LEAVING]} entries leave and {count} are queued"
    assert entries.table.count == states[LIVE], f"{states[LIVE]} entries live, {entries.table.count} in the table"
    assert entries.retired == states[RETIRED], f"{states[RETIRED]} entries are retired and {entries.retired} counted"
    assert entries.leases == leases, f"{leases} leases are out and {entries.leases} counted"
    return 0


cdef inline int audit_table(Entries* entries) except -1:
    cdef:
        uint64_t place
        uint64_t search
        uint64_t count = 0
        uint32_t number
    for place in range(entries.table.size):
        if entries.table.cells[place] == 0:
            continue
        count += 1
        number = <uint32_t> entries.table.cells[place]
        assert entries.nodes[number].state == LIVE, f"entry {number} is in the table and not live"
        assert entries.table.cells[place] >> 32 == entries.nodes[number].hash >> 32, f"cell {place} has another hash"
        search = cell_home(&entries.table, entries.table.cells[place])
        while search != place:
            assert entries.table.cells[search] != 0, f"entry {number} cannot be found: there is a gap before its cell"
            search = cell_after(&entries.table, search)
    assert count == entries.table.count, f"the table has {count} cells in use, not {entries.table.count}"
    return 0


cdef inline int audit_wheel(Entries* entries) except -1:
    cdef:
        uint32_t head
        uint32_t number
        uint32_t following
        uint64_t count = 0
        bint is_used
    if entries.wheel == NULL:
        return 0
    for head in range(<uint32_t> HEADS):
        number = HEADS_AT + head
        is_used = False
        while True:
            following = timer_at(entries.wheel, number).next
            assert timer_at(entries.wheel, following).prev == number, f"slot {head} is broken at entry {number}"
            number = following
            if number >= <uint32_t> HEADS_AT:
                break
            is_used = True
            assert entries.nodes[number].state == LIVE, f"entry {number} waits in the wheel and is not live"
            assert entries.timers[number].deadline != 0, f"entry {number} waits in the wheel without a deadline"
            count += 1
        if head < 256:
            assert (entries.wheel.used[head // 64] >> head % 64 & 1) == is_used, f"slot {head} is marked wrongly"
    assert count == entries.wheel.count, f"{count} entries wait in the wheel and {entries.wheel.count} are counted"
    for number in range(<uint32_t> LISTS, entries.capacity):
        count -= entries.timers[number].deadline != 0
    assert count == 0, "entries have a deadline and do not wait in the wheel"
    return 0
