"""The offline optimum: how many requests hit when the future is known and every entry costs 1.

Belady's MIN with bypass: of the entries and the newcomer, the one whose next use is furthest away goes, and a key that
is never asked for again is not stored. No policy can hit more often.

An entry is known by the number of the request that will use it next, so the entries are a set of request numbers, and
a heap has the furthest on top. A number that was reached stays in the heap, but below all that are still to come, so it
is never on top while there is anything to evict. The heap is made anew when most of it has been reached.
"""

import heapq
from array import array
from collections.abc import Sequence

NEVER = 2**63 - 1


def next_uses(keys: Sequence[int]) -> "array[int]":
    """Return for each request the number of the next one for the same key, or NEVER."""
    following = array("q", bytes(8 * len(keys)))
    seen: dict[int, int] = {}
    for number in range(len(keys) - 1, -1, -1):
        key = keys[number]
        following[number] = seen.get(key, NEVER)
        seen[key] = number
    return following


def optimal_hits(following: Sequence[int], capacity: int) -> int:
    """Return how many requests hit in a cache of *capacity* entries; *following* is from next_uses."""
    is_held = bytearray(len(following))
    furthest: list[int] = []  # negative: heapq has the least on top
    entries = hits = 0
    for number, use in enumerate(following):
        if is_held[number]:
            hits += 1
            entries -= 1
        if use == NEVER:
            continue
        is_held[use] = 1
        if entries < capacity:
            heapq.heappush(furthest, -use)
            entries += 1
        else:
            is_held[-heapq.heappushpop(furthest, -use)] = 0
        if len(furthest) > 4 * capacity + 1000:
            furthest = [item for item in furthest if -item > number]
            heapq.heapify(furthest)
    return hits
