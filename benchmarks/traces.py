"""The streams of requests that hit ratios are measured on: read from files, or generated from a seed.

A file is gzip of little-endian words of 64 bits. Its name says what they are: NAME.u64.gz has keys, NAME.ksu64.gz has a
key and a cost in bytes in turn, NAME.tku64.gz has milliseconds and a key in turn.
"""

import gzip
import itertools
import random
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

FORMS = {".ksu64.gz": (0, 1), ".tku64.gz": (1, None), ".u64.gz": (0, None)}
"""Ending of the name: place of the key among the words of a request, and place of the cost."""

SIZES = {
    "adaptsize-request": (500, 2000, 10000),
    "arc-oltp": (500, 1000, 2000),
    "cache2k-web07": (250, 1000, 5000),
    "gateway-a": (250, 1000, 4000),
    "lirs-gli": (500, 1000, 2000),
    "lirs-multi3": (250, 1000, 2500),
    "lirs-sprite": (100, 400, 1000),
    "mooncake-conversation": (1000, 10000, 50000),
    "scarab-recs": (1000, 10000, 50000),
    "loop": (250, 500, 1000),
}
SHARES = (64, 16, 4)
"""Of a trace without a line in SIZES: one part in so many of its keys, or of its bytes."""

_REQUESTS = 300_000
_UNIVERSE = 50_000


class Trace(NamedTuple):
    name: str
    keys: "array[int]"
    costs: "array[int] | None" = None

    def sizes(self) -> tuple[int, ...]:
        """Return the capacities to replay with, in entries."""
        if sizes := SIZES.get(self.name):
            return sizes
        return _parts(len(set(self.keys)))

    def byte_sizes(self) -> tuple[int, ...]:
        """Return the capacities to replay a sized trace with, in bytes."""
        return _parts(sum(dict(zip(self.keys, self.costs or (), strict=True)).values()))


def _parts(whole: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, whole // share) for share in SHARES}))


def _zipf(exponent: float, seed: int, requests: int = _REQUESTS, first: int = 0) -> Iterator[int]:
    """Yield requests for a universe of keys from *first* on, whose popularity falls as rank ** -exponent."""
    weights = list(itertools.accumulate(rank**-exponent for rank in range(1, _UNIVERSE + 1)))
    yield from random.Random(seed).choices(range(first, first + _UNIVERSE), cum_weights=weights, k=requests)


def _scans(seed: int) -> Iterator[int]:
    """Yield zipf requests, and after each 10,000 of them a scan of 5,000 keys that nobody asks for again."""
    fresh = itertools.count(_UNIVERSE)
    for number, key in enumerate(_zipf(0.9, seed)):
        yield key
        if number % 10_000 == 9_999:
            yield from itertools.islice(fresh, 5_000)


def _loop(_seed: int) -> Iterator[int]:
    """Yield the same 1,100 keys in the same order: 10 % more than the largest cache of this trace holds."""
    yield from itertools.islice(itertools.cycle(range(1_100)), _REQUESTS)


def _phases(seed: int) -> Iterator[int]:
    """Yield zipf requests for one universe, then for another one, and so on, five in all."""
    for phase in range(5):
        yield from _zipf(0.9, seed + phase, _REQUESTS // 5, phase * _UNIVERSE)


GENERATORS: dict[str, Callable[[int], Iterator[int]]] = {
    "zipf-0.7": lambda seed: _zipf(0.7, seed),
    "zipf-0.9": lambda seed: _zipf(0.9, seed),
    "zipf-1.1": lambda seed: _zipf(1.1, seed),
    "zipf-scans": _scans,
    "loop": _loop,
    "phases": _phases,
}


def generate(name: str, seed: int = 1) -> Trace:
    """Return one of GENERATORS' traces; the same seed gives the same requests."""
    return Trace(name, array("Q", GENERATORS[name](seed)))


def read(path: Path) -> Trace:
    """Return the trace of a file whose name ends in one of FORMS."""
    ending = next(form for form in FORMS if path.name.endswith(form))
    key, cost = FORMS[ending]
    words = array("Q")
    with gzip.open(path) as file:
        words.frombytes(file.read())
    if sys.byteorder != "little":
        words.byteswap()
    step = 1 if ending == ".u64.gz" else 2
    return Trace(
        path.name.removesuffix(ending), words[key::step], None if cost is None else array("Q", words[cost::step])
    )


def find(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that are traces, by the name of the trace."""
    files = sorted(folder.iterdir())
    return {file.name.removesuffix(form): file for file in files for form in FORMS if file.name.endswith(form)}
