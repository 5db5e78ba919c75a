"""What the raw results say, figure by figure."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.gateway.figures import added, ratio
from benchmarks.gateway.requests import Kind

Row = Mapping[str, Any]

OURS = "bridgecore"
DIRECT = "direct"
LIMIT = "nginx"

KB_A_MB = 1024


class Case(NamedTuple):
    """So many streams at once, with so much time between the events of each."""

    streams: int
    gap_ms: int

    @property
    def events_a_second(self) -> int:
        return self.streams * 1000 // self.gap_ms

    def __str__(self) -> str:
        return f"{self.streams:,} at {self.gap_ms} ms"


class Results:
    """The results of one file. A figure that was not measured is an empty list, or None."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self.about: Mapping[str, Any] = data["about"]
        self.parts: Mapping[str, Mapping[str, Any]] = data["parts"]
        self.subjects: Sequence[Mapping[str, Any]] = self.about["subjects"]

    @property
    def programs(self) -> list[str]:
        """Names of what was measured, without the upstream alone."""
        return [subject["name"] for subject in self.subjects if subject["name"] != DIRECT]

    def title(self, name: str) -> str:
        return str(next(subject["title"] for subject in self.subjects if subject["name"] == name))

    def rows(self, part: str, **wanted: object) -> list[Row]:
        """Return the rows of a part that have these values, in the order of rounds."""
        return [row for row in self._data.get(part, ()) if all(row.get(name) == at for name, at in wanted.items())]

    def _each(self, figure: Callable[[Row], float], part: str, **wanted: object) -> list[float]:
        return [figure(row) for row in self.rows(part, **wanted)]

    # Requests

    def rates(self, subject: str, kind: Kind) -> list[float]:
        """Return the requests a second of each round."""
        return self._each(lambda row: row["answered"] / row["seconds"], "chat", subject=subject, kind=kind)

    def request_us(self, subject: str, kind: Kind, group: str = "worker") -> list[float]:
        """Return the CPU time a request of each round."""
        return [
            row["cpu"][group][0] / row["answered"]
            for row in self.rows("chat", subject=subject, kind=kind)
            if group in row["cpu"] and row["answered"]
        ]

    def generator_share(self, subject: str, kind: Kind) -> list[float]:
        """Return how much of its core the load generator used in each round, the upstream not counted."""
        return self._each(lambda row: row["own_cpu_us"] / row["seconds"] / 1e6, "chat", subject=subject, kind=kind)

    def wrong(self) -> int:
        """Return how many answers were not right, in all parts."""
        return sum(row.get("wrong", 0) for part in self.parts for row in self.rows(part))

    # Streams

    def cases(self) -> list[Case]:
        return list(dict.fromkeys(Case(row["streams"], row["gap_ms"]) for row in self.rows("streams")))

    def event_us(self, subject: str, case: Case, group: str = "worker") -> list[float]:
        """Return the CPU time an event of each round."""
        return [
            row["cpu"][group][0] / row["events"]
            for row in self.rows("streams", subject=subject, **case._asdict())
            if group in row["cpu"] and row["events"]
        ]

    def first_us(self, subject: str, case: Case) -> list[float]:
        """Return the median time to the first event of each round."""
        return self._each(lambda row: row["first_us"][0], "streams", subject=subject, **case._asdict())

    def first_added_us(self, subject: str, case: Case) -> float | None:
        """Return by how much the first event comes later than it does directly."""
        through = self.first_us(subject, case)
        return added(through, self.first_us(DIRECT, case)) if through else None

    # Latency

    def paced_rates(self) -> list[int]:
        """Return the requests a second that were sent."""
        return sorted({row["rate"] for row in self.rows("latency") if "rate" in row})

    def latency_us(self, subject: str, rate: int, place: int) -> list[float]:
        """Return p50, p99, p99.9 or the highest latency of each round, by *place*."""
        return self._each(lambda row: row["latency_us"][place], "latency", subject=subject, rate=rate)

    def latency_added_us(self, subject: str, rate: int, place: int) -> float | None:
        """Return by how much that is more than directly."""
        through = self.latency_us(subject, rate, place)
        return added(through, self.latency_us(DIRECT, rate, place)[: len(through)]) if through else None

    def late_us(self, rate: int, place: int) -> list[float]:
        """Return how late requests left, in all rounds and for all programs."""
        return self._each(lambda row: row["late_us"][place], "latency", rate=rate)

    # Memory

    def idle_kb(self, subject: str, group: str = "worker", measure: str = "rss_kb") -> int | None:
        """Return the resident memory without streams."""
        found = [
            row[measure][group] for row in self.rows("memory", subject=subject, streams=0) if group in row[measure]
        ]
        return found[0] if found else None

    def held(self, subject: str) -> list[tuple[int, float]]:
        """Return numbers of open streams, and the KB that each takes."""
        idle = self.idle_kb(subject)
        if idle is None:
            return []
        rows = [row for row in self.rows("memory", subject=subject) if row["streams"]]
        return [(row["streams"], (row["rss_kb"]["worker"] - idle) / row["streams"]) for row in rows]

    def refused(self, subject: str) -> list[int]:
        """Return how many streams should have been open where fewer were."""
        rows = self.rows("memory", subject=subject)
        return [row["wanted"] for row in rows if row["streams"] < row.get("wanted", 0)]

    def resident(self, subject: str) -> list[tuple[int, float]]:
        """Return numbers of open streams, and the MB resident with them."""
        return [(row["streams"], row["rss_kb"]["worker"] / KB_A_MB) for row in self.rows("memory", subject=subject)]

    # The others

    def start_s(self, subject: str) -> list[float]:
        """Return the seconds to the first right answer of each start."""
        return self._each(lambda row: row["seconds"], "startup", subject=subject)

    def worker_us(self, count: int) -> list[float]:
        """Return the CPU time a request of all workers, round by round."""
        return self._each(
            lambda row: sum(cpu[0] for name, cpu in row["cpu"].items() if name != "parent") / row["answered"],
            "workers",
            workers=count,
        )

    def worker_rates(self, count: int) -> list[float]:
        """Return the requests a second of so many workers, round by round."""
        return self._each(lambda row: row["answered"] / row["seconds"], "workers", workers=count)

    def scaling(self) -> float | None:
        """Return how much more two workers carry than one, each with a core of its own, by their CPU time.

        What one carries is what its core has by what a request costs it; so have two, by what it costs them together.
        """
        one, two = self.worker_us(1), self.worker_us(2)
        return 2 * ratio(one, two) if one else None


def middle(values: Sequence[float]) -> float | None:
    """Return the median, None of nothing."""
    return median(values) if values else None
