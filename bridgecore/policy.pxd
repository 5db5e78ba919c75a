"""Who stays: W-TinyLFU over nodes in an array.

A newcomer enters the window. What leaves the window enters the main space, probation and protected, only if the
sketch knows it better than the entry that has to make room. The three lists are circular, through 32-bit numbers of
nodes; the first nodes of the array are their heads, whose `next` is the least recently used. The cache and each of its
shadow caches (chooser.pxd) are one `Policy`; they share a sketch.

Victims are returned and not dropped: the owner of the nodes knows what else hangs on them.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from bridgecore.sketch cimport Sketch, sketch_frequency

cdef extern from *:
    bint unlikely(bint condition) noexcept nogil

cdef enum:
    WINDOW = 0
    PROBATION = 1
    PROTECTED = 2
    PINNED = 3              # entries of cost 0, of which no decision knows
    LISTS = 4               # how many there are; the queue of a node in none, and the number of the first node

cdef enum:
    MOVES_PER_CALL = 64     # what a shrinking list hands on in one call, so that no call takes long
    WARM = 6                # a loser of at least this frequency is admitted
    WARM_CHANCE = 128       # one time in so many, lest somebody keeps others out by inflating a victim


cdef struct Node:
    uint64_t hash
    int64_t cost
    uint32_t prev
    uint32_t next
    uint32_t leases     # the cache's, like all that follows but for the queue
    uint8_t queue
    uint8_t state
    uint8_t cause
    uint8_t full_in     # the era in which the sketch's counters of the hash were seen full, or 0


cdef struct Policy:
    Node* nodes
    Sketch* sketch
    uint64_t max_cost
    uint64_t window_max
    uint64_t protected_max
    uint64_t random         # state of SplitMix64
    uint64_t[4] costs
    uint64_t[4] counts


cdef inline void policy_init(Policy* policy, Node* nodes) noexcept nogil:
    cdef uint32_t head
    policy.nodes = nodes
    for head in range(LISTS):
        nodes[head].prev = head
        nodes[head].next = head
        policy.costs[head] = 0
        policy.counts[head] = 0


cdef inline uint64_t policy_cost(Policy* policy) noexcept nogil:
    # Below 2**64: the lists hold at most max_cost, and a newcomer as much again.
    return policy.costs[WINDOW] + policy.costs[PROBATION] + policy.costs[PROTECTED]


cdef inline uint64_t policy_count(Policy* policy) noexcept nogil:
    return policy.counts[WINDOW] + policy.counts[PROBATION] + policy.counts[PROTECTED]


cdef inline void policy_resize(Policy* policy, uint64_t max_cost, uint64_t window_max) noexcept nogil:
    cdef uint64_t main = max_cost - window_max
    policy.max_cost = max_cost
    policy.window_max = window_max
    policy.protected_max = main // 5 * 4 + main % 5 * 4 // 5       # main * 4 // 5 without overflow


cdef inline uint64_t next_random(uint64_t* state) noexcept nogil:
    """SplitMix64."""
    cdef uint64_t z
    state[0] += 0x9e3779b97f4a7c15ULL
    z = state[0]
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL
    z = (z ^ z >> 27) * 0x94d049bb133111ebULL
    return z ^ z >> 31


cdef inline void unlink(Policy* policy, uint32_t number) noexcept nogil:
    cdef Node* node = &policy.nodes[number]
    policy.nodes[node.prev].next = node.next
    policy.nodes[node.next].prev = node.prev


cdef inline void link_last(Policy* policy, uint32_t number, uint32_t queue) noexcept nogil:
    cdef:
        Node* node = &policy.nodes[number]
        Node* head = &policy.nodes[queue]
    node.prev = head.prev
    node.next = queue
    policy.nodes[head.prev].next = number
    head.prev = number


cdef inline void policy_remove(Policy* policy, uint32_t number) noexcept nogil:
    """Take a node out of its list."""
    cdef Node* node = &policy.nodes[number]
    unlink(policy, number)
    policy.costs[node.queue] -= node.cost
    policy.counts[node.queue] -= 1
    node.queue = LISTS


cdef inline void policy_append(Policy* policy, uint32_t number, uint32_t queue) noexcept nogil:
    """Make a node that is in no list the most recent of *queue*."""
    cdef Node* node = &policy.nodes[number]
    link_last(policy, number, queue)
    node.queue = queue
    policy.costs[queue] += node.cost
    policy.counts[queue] += 1


cdef inline void policy_move(Policy* policy, uint32_t number, uint32_t queue) noexcept nogil:
    policy_remove(policy, number)
    policy_append(policy, number, queue)


cdef inline void policy_use(Policy* policy, uint32_t number) noexcept nogil:
    """Note that the entry was used."""
    cdef Node* node = &policy.nodes[number]
    if node.queue == PROBATION:
        policy_move(policy, number, PROTECTED)
    else:
        unlink(policy, number)
        link_last(policy, number, node.queue)
    if unlikely(policy.costs[PROTECTED] > policy.protected_max):
        policy_demote(policy)


cdef inline void policy_demote(Policy* policy) noexcept nogil:
    cdef int moves = 0
    while policy.costs[PROTECTED] > policy.protected_max and policy.counts[PROTECTED] > 1 and moves < MOVES_PER_CALL:
        policy_move(policy, policy.nodes[PROTECTED].next, PROBATION)
        moves += 1


cdef inline uint32_t least_recent(Policy* policy, uint32_t queue, uint32_t kept) noexcept nogil:
    """Return the least recent of a list, or 0 if it is empty or that one is *kept*."""
    cdef uint32_t first = policy.nodes[queue].next
    return 0 if first < LISTS or first == kept else first


cdef inline bint policy_admits(Policy* policy, uint32_t candidate, uint32_t victim) noexcept nogil:
    cdef uint32_t frequency = sketch_frequency(policy.sketch, policy.nodes[candidate].hash)
    if frequency > sketch_frequency(policy.sketch, policy.nodes[victim].hash):
        return True
    return frequency >= WARM and next_random(&policy.random) % WARM_CHANCE == 0


cdef inline uint32_t policy_victim(Policy* policy, uint32_t kept, int* moves) noexcept nogil:
    """Return the next node that has to go, taken out of its list, or 0 when there is room.

    Called again until it returns 0, with *moves* at 0 the first time. *kept* is never chosen.
    """
    cdef:
        uint32_t candidate
        uint32_t victim
        bint is_full
    while policy.costs[WINDOW] > policy.window_max and policy.counts[WINDOW] > 1:
        candidate = policy.nodes[WINDOW].next
        is_full = policy_cost(policy) > policy.max_cost
        if not is_full:
            if moves[0] == MOVES_PER_CALL:
                break
            moves[0] += 1
            policy_move(policy, candidate, PROBATION)
            continue
        victim = least_recent(policy, PROBATION, kept) or least_recent(policy, PROTECTED, kept)
        if victim and policy_admits(policy, candidate, victim):
            policy_move(policy, candidate, PROBATION)
        else:
            victim = candidate
        policy_remove(policy, victim)
        return victim
    if policy_cost(policy) <= policy.max_cost:
        return 0
    victim = (
        least_recent(policy, PROBATION, kept)
        or least_recent(policy, PROTECTED, kept)
        or least_recent(policy, WINDOW, kept)
    )
    policy_remove(policy, victim)
    return victim
