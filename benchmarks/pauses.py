"""The slowest calls: each set timed by itself, while a cache of 100,000 entries fills and then evicts as many.

The mean of a slice hides the call in which a table grows or put-off work is done; this shows it. A reading of the clock
is in each time. The least of several runs is given for every figure, since the system's own pauses come on top.
"""

import gc
import time
from collections.abc import Sequence
from typing import Any

from keys import hashed
from subjects import VALUE, subjects

ENTRIES = 100_000
SETS = 2 * ENTRIES
RUNS = 3
NAMES = ("bridgecore", "bridgecore, listener", "dict", "cachebox LRU", "moka-py", "theine nolock", "cachetools LRU")
FIGURES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "slowest": 1.0}


def _times_ns(name: str, keys: Sequence[str]) -> list[int]:
    """Return how long each set took, sorted."""
    insert, clock = subjects([name], ENTRIES)[name].set, time.perf_counter_ns
    times = [0] * len(keys)
    gc.collect()
    gc.disable()
    try:
        for place, key in enumerate(keys):
            start = clock()
            insert(key, VALUE)
            times[place] = clock() - start
    finally:
        gc.enable()
    return sorted(times)


def measure() -> list[dict[str, Any]]:
    """Return the FIGURES of each cache in nanoseconds."""
    keys = hashed(range(SETS))
    runs: dict[str, list[list[int]]] = {name: [] for name in subjects(NAMES, 1)}
    for _ in range(RUNS):
        for name, times in runs.items():
            times.append(_times_ns(name, keys))
    last = SETS - 1
    return [
        {"name": name, "ns": {figure: min(run[int(part * last)] for run in times) for figure, part in FIGURES.items()}}
        for name, times in runs.items()
    ]
