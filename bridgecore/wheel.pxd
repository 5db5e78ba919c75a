"""What expires next: a hierarchical timer wheel over nodes in an array.

Time is counted in ticks of 2**30 ns. Four wheels of 64 slots stand for the four lowest digits, in base 64, of a
deadline's tick; an entry waits in the wheel of the highest digit in which its deadline differs from the wheel's own
time, and in the slot of that digit. When the time reaches the slot, its entries move to lower wheels. What differs
above the four digits (more than 208 days away) waits in one list. A bitmap a wheel finds the next slot in use, so a
clock that jumps costs what there is to do, and not the length of the jump.

Entries of one tick keep the order in which they came: a slot is emptied before its time begins, so what comes later
for the same tick stands behind.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from *:
    int lowest_bit "__builtin_ctzll"(uint64_t word) noexcept nogil

cdef enum:
    TICK_BITS = 30
    SLOT_BITS = 6
    SLOTS = 64
    WHEELS = 4
    FAR = 256               # the head of the list beyond the wheels
    HEADS = 257


cdef struct Timer:
    int64_t deadline        # ns, or 0 where there is none
    uint32_t prev           # heads have the numbers from HEADS_AT on
    uint32_t next


cdef struct Wheel:
    Timer* timers
    uint64_t tick           # every earlier tick has been swept
    uint64_t[4] used        # a bit for each slot with entries
    uint64_t count
    Timer[257] heads


cdef enum:
    HEADS_AT = 0xFFFFFE00   # numbers from here on are heads


cdef inline Timer* timer_at(Wheel* wheel, uint32_t number) noexcept nogil:
    return &wheel.heads[number - HEADS_AT] if number >= <uint32_t> HEADS_AT else &wheel.timers[number]


cdef inline void wheel_init(Wheel* wheel, int64_t now) noexcept nogil:
    cdef uint32_t i
    wheel.tick = <uint64_t> now >> TICK_BITS
    wheel.count = 0
    for i in range(WHEELS):
        wheel.used[i] = 0
    for i in range(HEADS):
        wheel.heads[i].prev = HEADS_AT + i
        wheel.heads[i].next = HEADS_AT + i


cdef inline uint32_t head_for(Wheel* wheel, uint64_t tick) noexcept nogil:
    """Return the index of the list in which an entry of that tick waits, and note that it is in use."""
    cdef:
        uint32_t level = 0
        uint64_t differing
        uint32_t slot
    tick = max(tick, wheel.tick)
    differing = (tick ^ wheel.tick) >> SLOT_BITS
    while differing:
        level += 1
        differing >>= SLOT_BITS
    if level >= WHEELS:
        return FAR
    slot = tick >> level * SLOT_BITS & (SLOTS - 1)
    wheel.used[level] |= <uint64_t> 1 << slot
    return level * SLOTS + slot


cdef inline void wheel_link(Wheel* wheel, uint32_t number) noexcept nogil:
    cdef:
        Timer* timer = &wheel.timers[number]
        uint32_t head = HEADS_AT + head_for(wheel, <uint64_t> timer.deadline >> TICK_BITS)
        uint32_t last = timer_at(wheel, head).prev
    timer.prev = last
    timer.next = head
    timer_at(wheel, last).next = number
    timer_at(wheel, head).prev = number


cdef inline void wheel_add(Wheel* wheel, uint32_t number, int64_t deadline) noexcept nogil:
    wheel.timers[number].deadline = deadline
    wheel.count += 1
    wheel_link(wheel, number)


cdef inline void wheel_remove(Wheel* wheel, uint32_t number) noexcept nogil:
    cdef:
        Timer* timer = &wheel.timers[number]
        uint32_t head
    timer_at(wheel, timer.prev).next = timer.next
    timer_at(wheel, timer.next).prev = timer.prev
    timer.deadline = 0
    wheel.count -= 1
    if timer.prev == timer.next and timer.prev >= <uint32_t> HEADS_AT:
        head = timer.prev - HEADS_AT
        if head != FAR:
            wheel.used[head // SLOTS] &= ~(<uint64_t> 1 << head % SLOTS)


cdef inline uint64_t next_used(Wheel* wheel, int* level) noexcept nogil:
    """Return the first tick that has something to do, and the wheel that has it; WHEELS for the far list."""
    cdef uint64_t digits
    for level[0] in range(WHEELS):
        if wheel.used[level[0]]:
            digits = wheel.tick >> level[0] * SLOT_BITS
            return ((digits & ~<uint64_t> (SLOTS - 1)) | lowest_bit(wheel.used[level[0]])) << level[0] * SLOT_BITS
    level[0] = WHEELS
    return ((wheel.tick >> WHEELS * SLOT_BITS) + 1) << WHEELS * SLOT_BITS


cdef inline void wheel_empty(Wheel* wheel, uint32_t head) noexcept nogil:
    """Deal the entries of a list out to the lists that are theirs now."""
    cdef:
        Timer* list = &wheel.heads[head]
        uint32_t number = list.next
        uint32_t last = list.prev
        uint32_t following
    if number >= <uint32_t> HEADS_AT:
        return
    list.next = HEADS_AT + head
    list.prev = HEADS_AT + head
    if head != FAR:
        wheel.used[head // SLOTS] &= ~(<uint64_t> 1 << head % SLOTS)
    while True:
        following = wheel.timers[number].next
        wheel_link(wheel, number)
        if number == last:
            break
        number = following


cdef inline uint32_t wheel_expired(Wheel* wheel, int64_t now) noexcept nogil:
    """Return the next entry whose tick is over, still in the wheel, or 0 when there is none."""
    cdef:
        uint64_t until = <uint64_t> now >> TICK_BITS
        uint64_t tick
        int level
    while wheel.tick < until:
        if wheel.count == 0:
            wheel.tick = until
            break
        tick = next_used(wheel, &level)
        if tick >= until and level == 0:
            wheel.tick = until
            break
        if tick > until:
            wheel.tick = until
            break
        if level == 0:
            wheel.tick = tick
            return wheel.heads[tick & (SLOTS - 1)].next
        wheel.tick = tick
        wheel_empty(wheel, FAR if level == WHEELS else level * SLOTS + (tick >> level * SLOT_BITS & (SLOTS - 1)))
    return 0


cdef inline int64_t wheel_deadline(Wheel* wheel) noexcept nogil:
    """Return when there is something to sweep at the earliest, in ns, or -1 if nothing expires."""
    cdef:
        uint64_t tick
        int level
    if wheel.count == 0:
        return -1
    tick = next_used(wheel, &level)
    if level == 0:
        tick += 1
    return <int64_t> min(tick << TICK_BITS, <uint64_t> 0x7FFFFFFFFFFFFFFF)
