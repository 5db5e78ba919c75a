"""Bytes an entry that a cache takes beyond the key and the value themselves.

    python benchmarks/memory.py "cachebox LRU" 100000

One cache at one size, in a process of its own. Keys and values are made first and kept in lists; what the process grows
by while the caches fill belongs to the caches. That is the resident memory, not what Python's allocator was asked for:
tracemalloc does not see what compiled code takes from the system. Both are taken after malloc has given back what is
free. Small caches are made many times over, so that the growth is large against a page of memory.
"""

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from keys import hashed
from subjects import MAKERS, subjects

SIZES = (1_000, 10_000, 100_000, 1_000_000)
LEAST_ENTRIES = 200_000
"""Entries of all caches together, at least."""
NAMES = (
    "bridgecore",
    "bridgecore, TTL",
    "dict",
    "functools.lru_cache",
    "cachebox LRU",
    "cachebox LFU",
    "cachebox VTTL",
    "moka-py",
    "theine nolock",
    "cachetools LRU",
    "cachetools TTL",
)


def _resident_bytes() -> int:
    """Return the memory the process has, as the kernel counts it; where that is hidden, the most it ever had."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def bytes_an_entry(name: str, size: int) -> float:
    """Fill caches of one kind and size, and return how much the process grew by for each entry."""
    keys = hashed(range(size))
    values = [object() for _ in range(size)]
    caches: list[Any] = [None] * max(1, LEAST_ENTRIES // size)
    before = _resident_bytes()
    for place in range(len(caches)):
        caches[place] = subject = subjects([name], size)[name]
        for key, value in zip(keys, values, strict=True):
            subject.set(key, value)
        subject.settle()
    return (_resident_bytes() - before) / (size * len(caches))


def measure(name: str, size: int) -> float | None:
    """Run this file in a process of its own; return None when the package is not installed."""
    if MAKERS[name][0] is None:
        return None
    command = [sys.executable, __file__, name, str(size)]
    answer: float = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer


if __name__ == "__main__":
    print(json.dumps(round(bytes_an_entry(sys.argv[1], int(sys.argv[2])), 1)))
