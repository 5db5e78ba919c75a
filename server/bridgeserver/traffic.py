"""What is counted of the requests that a worker bridges.

Requests with the same labels share a series: a list of numbers, and the names under which they are told. The names are
made once, a request adds to the numbers, and nothing is counted for an event of a stream.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from time import monotonic

from bridgeserver.counting import CHARACTERS, MICRO, SERIES, Counters, histogram_names
from bridgeserver.families import FAMILIES
from bridgeserver.protocols import Usage
from bridgeserver.records import Status

METHOD = "POST"
"""Of every bridged route."""

TYPES = ("input", "output", "cache_read_input_tokens", "cache_write_input_tokens")
"""The types of tokens that every answer counts; providers have more of their own."""

DURATION_BOUNDS = FAMILIES["interceptions_duration"].bounds
FIRST_BYTE_BOUNDS = FAMILIES["first_byte"].bounds

# Where each number stands in the list of a series.
COMPLETED, FAILED, CANCELLED, PROMPTS, SENT, RECEIVED, INPUT, OUTPUT, CACHE_READ, CACHE_WRITE, DURATION = range(11)
DURATION_SUM = DURATION + len(DURATION_BOUNDS) + 1
FIRST_BYTE = DURATION_SUM + 1
FIRST_BYTE_SUM = FIRST_BYTE + len(FIRST_BYTE_BOUNDS) + 1
TOKENS = range(INPUT, CACHE_WRITE + 1)

Labels = tuple[str, str, str, str, str]
"""Provider, route, model, client and user."""


class Series:
    """Requests with the same labels.

    Each is told of in this order: `begin`; for each answer `answered` and `tokens`; `carried`; `end`.
    """

    __slots__ = (
        "_clock",
        "_counts",
        "_extra",
        "_extra_names",
        "_has_tokens",
        "_labels",
        "_names",
        "_traffic",
        "inflight",
        "running",
    )

    def __init__(self, traffic: "Traffic", labels: Labels) -> None:
        provider, route, model, *caller = labels
        name = traffic.counters.name
        self._traffic = traffic
        self._clock = traffic.clock
        self._labels = labels
        self._names = [
            name("interceptions", provider, model, "completed", route, METHOD, *caller),
            name("interceptions", provider, model, "failed", route, METHOD, *caller),
            name("interceptions_cancelled", provider, model),
            name("prompts", provider, model, *caller),
            name("sent_bytes", provider),
            name("received_bytes", provider),
            *(self._token_name(kind) for kind in TYPES),
            *histogram_names(name("interceptions_duration", provider, model)),
            *histogram_names(name("first_byte", provider, model)),
        ]
        self._counts = [0] * len(self._names)
        self._extra: dict[str, int] = {}
        self._extra_names: dict[str, str] = {}
        self._has_tokens = False
        self.inflight = name("interceptions_inflight", provider, model, route)
        """The name of the gauge to which `running` belongs."""
        self.running = 0

    def begin(self, prompt: str | None) -> float:
        """Count a request in, and return what its `end` needs."""
        if not self.running:
            self._traffic.active.add(self)
        self.running += 1
        if prompt:
            self._counts[PROMPTS] += 1
        return self._clock()

    def answered(self, seconds: float) -> None:
        """Count how long the head of an answer took to come."""
        counts = self._counts
        counts[FIRST_BYTE + bisect_left(FIRST_BYTE_BOUNDS, seconds)] += 1
        counts[FIRST_BYTE_SUM] += int(seconds * MICRO)

    def tokens(self, usage: Usage) -> None:
        """Count what one answer cost; a type that is zero counts too, so that its series is there."""
        counts = self._counts
        self._has_tokens = True
        counts[INPUT] += usage.input
        counts[OUTPUT] += usage.output
        counts[CACHE_READ] += usage.cache_read
        counts[CACHE_WRITE] += usage.cache_write
        for kind, count in usage.extra.items():
            self._extra[kind] = self._extra.get(kind, 0) + count

    def carried(self, sent: int, received: int) -> None:
        """Count the bytes of the bodies that a request and its answers had."""
        counts = self._counts
        counts[SENT] += sent
        counts[RECEIVED] += received

    def end(self, status: Status, began: float) -> None:
        """Count a request out.

        A client that leaves is no failure of anybody's, so that counts as completed; what the gateway broke off as
        failed.
        """
        counts = self._counts
        seconds = self._clock() - began
        counts[DURATION + bisect_left(DURATION_BOUNDS, seconds)] += 1
        counts[DURATION_SUM] += int(seconds * MICRO)
        self.running -= 1
        if status == "completed":
            counts[COMPLETED] += 1
        elif status == "cancelled":
            counts[COMPLETED] += 1
            counts[CANCELLED] += 1
        else:
            counts[FAILED] += 1

    def take(self, into: Counter[str]) -> None:
        """Move what was counted since the last time."""
        counts = self._counts
        for name, count in zip(self._names, counts, strict=True):
            if count:
                into[name] = into.get(name, 0) + count
        if self._has_tokens:
            for place in TOKENS:
                into[self._names[place]] += 0
            for kind, count in self._extra.items():
                name = self._extra_names.get(kind) or self._extra_names.setdefault(kind, self._token_name(kind))
                into[name] += count
            self._extra.clear()
            self._has_tokens = False
        counts[:] = [0] * len(counts)

    def _token_name(self, kind: str) -> str:
        provider, _route, model, *caller = self._labels
        return self._traffic.counters.name("tokens", provider, model, kind, *caller)


class Traffic:
    """Counts the requests of one worker."""

    def __init__(self, counters: Counters, *, user_label: bool = False, clock: Callable[[], float] = monotonic) -> None:
        self.counters = counters
        self.clock = clock
        self.active: set[Series] = set()
        """Those that may have counted since the last `take`."""
        self._user_label = user_label
        self._series: dict[Labels, Series] = {}
        self._names: dict[tuple[str, ...], str] = {}

    def series(self, provider: str, route: str, model: str, client: str, user: str) -> Series:
        """Return what counts a request with these labels."""
        labels = (provider, route, model[:CHARACTERS], client, user if self._user_label else "")
        series = self._series.get(labels)
        if series is None:
            if len(self._series) >= SERIES:
                self._series.clear()
            series = self._series[labels] = Series(self, labels)
        return series

    def passed_through(self, provider: str, route: str, method: str) -> None:
        """Count a request that is not recorded; *route* is the pattern that its path has met."""
        self.counters[self._name("passthrough", provider, route, method)] += 1

    def carried(self, provider: str, sent: int, received: int) -> None:
        """Count the bytes of the bodies that such a request and its answer had."""
        self.counters[self._name("sent_bytes", provider)] += sent
        self.counters[self._name("received_bytes", provider)] += received

    def _name(self, family: str, *values: str) -> str:
        key = (family, *values)
        return self._names.get(key) or self._names.setdefault(key, self.counters.name(family, *values))

    def take(self) -> dict[str, int]:
        """Return everything that the worker has counted since the last time."""
        for series in list(self.active):
            series.take(self.counters)
            if not series.running:
                self.active.discard(series)
        return self.counters.take()

    def inflight(self) -> dict[str, int]:
        """Return how many requests run, by the name of their gauge; 0 where one did since the last `take`."""
        found = Counter[str]()
        for series in self.active:
            found[series.inflight] += series.running
        return dict(found)
