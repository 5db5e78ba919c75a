"""Counters of a worker, and their sums in the parent: plain numbers by name.

A name is that of a family, a dot, and the values of its labels. A histogram is a counter for each bucket, whose
number is one value more, and one for the sum. A worker tells the parent what has been added since the last time, and
the parent adds it: each count is told once, on a connection that keeps the order and loses nothing but what a worker
that is killed had yet to tell.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bridgeserver.families import FAMILIES, FREE

SEPARATOR = "\x1f"
"""Between the values of labels, which may hold dots; ASCII calls it the unit separator."""

MODELS = 200
"""Values that the label `model` may have."""

SERIES = 5000
"""Combinations of values that one family may have, before those that others choose are folded into one."""

CHARACTERS = 128
"""What is shown of a value that others choose."""

OTHER = "other"
"""Stands for all values that came when a limit was reached."""

SUM = "sum"
"""In place of the number of a bucket: the sum of all that was observed, in units of the family's `scale`."""

MICRO = 1_000_000
NAMES_KEPT = 50_000


class Parts(NamedTuple):
    """What a name says."""

    family: str
    values: tuple[str, ...]
    bucket: str = ""
    """Of a histogram: the number of a bucket, or `SUM`."""


def join(family: str, values: Sequence[str]) -> str:
    """Return the name of a counter; of a histogram, what all of its names begin with."""
    return f"{family}.{SEPARATOR.join(values)}" if values else family


def clean(value: str) -> str:
    """Return a value that others chose so that it parts no names and can be sent."""
    return value[:CHARACTERS].replace(SEPARATOR, " ").encode("utf-8", "replace").decode()


def split(name: str) -> Parts | None:
    """Return what a name says, or None if it is none of a family's.

    Where no separator is in it, the values are parted by dots, and the last one may hold dots.
    """
    base, dot, rest = name.partition(".")
    family = FAMILIES.get(base)
    if family is None:
        return None
    is_histogram = family.kind == "histogram"
    count = len(family.labels) + is_histogram
    values: list[str] = []
    if dot:
        values = rest.split(SEPARATOR) if SEPARATOR in rest else rest.split(".", max(0, count - 1))
    if len(values) != count:
        return None
    bucket = values.pop() if is_histogram else ""
    return Parts(base, tuple(values), bucket)


def total(counters: Mapping[str, float], family: str) -> int:
    """Return what a family has counted under all of its labels."""
    return int(sum(value for name, value in counters.items() if name.partition(".")[0] == family))


class Bounded:
    """Keeps the values of labels within their limits."""

    def __init__(self) -> None:
        self._models: set[str] = set()
        self._series: defaultdict[str, set[str]] = defaultdict(set)

    def name(self, family: str, values: Sequence[str]) -> str:
        """Return the name for these values, or for what stands for them."""
        labels = FAMILIES[family].labels
        shown = [self._shown(label, value) for label, value in zip(labels, values, strict=True)]
        name = join(family, shown)
        known = self._series[family]
        if name not in known:
            if len(known) >= SERIES:
                return join(family, [_folded(label, value) for label, value in zip(labels, shown, strict=True)])
            known.add(name)
        return name

    def _shown(self, label: str, value: str) -> str:
        if label not in FREE:
            return value
        value = clean(value)
        if label != "model" or value in self._models:
            return value
        if len(self._models) >= MODELS:
            return OTHER
        self._models.add(value)
        return value


def _folded(label: str, value: str) -> str:
    return OTHER if label in FREE and value else value


class Counters(Counter[str]):
    """What a worker has counted and not yet told."""

    def __init__(self) -> None:
        super().__init__()
        self._bounded = Bounded()

    def name(self, family: str, *values: str) -> str:
        """Return the name under which to count, for those who count often."""
        return self._bounded.name(family, values)

    def add(self, family: str, *values: str) -> None:
        """Count one more."""
        self[self.name(family, *values)] += 1

    def take(self) -> dict[str, int]:
        """Return what was counted since the last time."""
        taken = dict(self)
        self.clear()
        return taken


def histogram_names(name: str) -> list[str]:
    """Return the names of the buckets of a histogram, and after them that of its sum; *name* is `Counters.name`'s."""
    family = FAMILIES[name.partition(".")[0]]
    base = name + (SEPARATOR if family.labels else ".")
    return [*(f"{base}{number}" for number in range(len(family.bounds) + 1)), base + SUM]


class Histogram:
    """One histogram among the counters; *name* is what `Counters.name` gives."""

    __slots__ = ("_bounds", "_buckets", "_counters", "_sum")

    def __init__(self, counters: Counter[str], name: str) -> None:
        self._counters = counters
        self._bounds = FAMILIES[name.partition(".")[0]].bounds
        *self._buckets, self._sum = histogram_names(name)

    def observe(self, value: float) -> None:
        """Count one more value."""
        counters = self._counters
        counters[self._buckets[bisect_left(self._bounds, value)]] += 1
        counters[self._sum] += int(value * MICRO)


class Growth:
    """Turns counters that somebody else keeps into what they grew by."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}

    def take(self, counters: Mapping[str, int]) -> dict[str, int]:
        """Return by how much each has grown since the last time, without those that have not."""
        before = self._before
        grown = {name: value - before.get(name, 0) for name, value in counters.items() if value != before.get(name, 0)}
        self._before = dict(counters)
        return grown


class Sums:
    """What all workers have ever counted, and what they have at the moment."""

    def __init__(self) -> None:
        self._bounded = Bounded()
        self._counts = Counter[str]()
        self._inflight: set[str] = set()
        self._names: dict[str, str] = {}

    def add(self, counters: Mapping[str, int], gauges: Iterable[str] = ()) -> None:
        """Add what a worker has counted since its last report, and take note of the *gauges* that it tells of."""
        for name, value in counters.items():
            self._counts[self._name(name)] += value
        for name in gauges:
            if name.startswith("interceptions_inflight."):
                self._inflight.add(self._name(name))

    def with_gauges(
        self, gauges: Iterable[Mapping[str, float]], states: Iterable[Mapping[str, float]]
    ) -> dict[str, float]:
        """Return everything: the counts, the sums of the workers' *gauges*, and the highest of their *states*."""
        found: dict[str, float] = dict(self._counts)
        for name in self._inflight:  # a label that was seen once is 0 from then on, and not absent
            found[name] = 0
        for gauge, value in (item for mapping in gauges for item in mapping.items()):
            name = self._name(gauge)
            found[name] = found.get(name, 0) + value
        for state, value in (item for mapping in states for item in mapping.items()):
            name = self._name(state)
            found[name] = max(value, found.get(name, 0.0))
        return found

    def _name(self, name: str) -> str:
        """Return under which name to count what a worker counts under *name*: their limits are for each alone."""
        found = self._names.get(name)
        if found is None:
            if len(self._names) >= NAMES_KEPT:
                self._names.clear()
            parts = split(name)
            found = name
            if parts is not None and parts.values:
                found = self._bounded.name(parts.family, parts.values)
                if parts.bucket:
                    found += SEPARATOR + parts.bucket
            self._names[name] = found
        return found
